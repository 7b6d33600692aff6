"""The checkpoint's own text encoder: T5 and its tokenizer, through transformers. Used where a prompt changes.

Runs on the CPU in fp32; slow (the import takes seconds, a prompt tens of milliseconds), so never in the frame loop.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rfm_live.errors import CheckpointError


class TextEncoder:
    """Turns a prompt into the states that the decoder's cross-attention reads.

    `section` is the checkpoint's `text_encoder` configuration, `weights` its tensors without their prefix; the
    tokenizer is read from the files in `path`. Raises `CheckpointError`.
    """

    def __init__(self, path: Path, section: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoTokenizer, T5Config, T5EncoderModel
        from transformers.utils import logging

        # Without these transformers would quietly make a tokenizer that knows no words.
        if not any((path / name).is_file() for name in ("tokenizer.json", "spiece.model")):
            raise CheckpointError(f"{path}: no tokenizer.json or spiece.model, which prompts need")
        try:
            with torch.device("meta"):
                model: nn.Module = T5EncoderModel(T5Config(**section))
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: text_encoder: {_one_line(error)}") from error
        try:
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # it warns that MusicGen's pad token is outside the decoder's vocabulary
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            finally:
                logging.set_verbosity(verbosity)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise CheckpointError(f"{path}: tokenizer cannot be read: {_one_line(error)}") from error
        # The token table is stored under either of its two names, or both.
        tables = ("shared.weight", "encoder.embed_tokens.weight")
        table = next((weights[name] for name in tables if name in weights), None)
        if table is None:
            raise CheckpointError(f"{path}: key 'text_encoder.shared.weight' is missing")
        if len(self._tokenizer) > table.shape[0]:
            sizes = f"{len(self._tokenizer)} tokens, text encoder knows {table.shape[0]}"
            raise CheckpointError(f"{path}: tokenizer has {sizes}")
        try:
            model.load_state_dict({**weights, **dict.fromkeys(tables, table)}, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: text_encoder does not fit: {_one_line(error)}") from error
        self._model = model.eval().requires_grad_(False)

    def encode(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        """Encode one prompt -> (states fp32 [1, S, text_width], mask bool [1, S]), or None for a blank prompt."""
        if not prompt.strip():
            return None
        tokens = self._tokenizer(prompt, return_tensors="pt")
        mask: Tensor = tokens.attention_mask  # [1, S]
        with torch.no_grad():
            states: Tensor = self._model(tokens.input_ids, attention_mask=mask).last_hidden_state
        return states, mask.bool()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
