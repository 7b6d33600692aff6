"""The checkpoint's own text encoder: T5 and its tokenizer, through transformers. Used where a prompt changes.

Runs on the CPU in fp32; slow (the import takes seconds, a prompt tens of milliseconds), so never in the frame loop.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rfm_live.errors import CheckpointError
from rfm_live.model.assembly import Joined, ModuleSource, Part, check, fill
from rfm_live.model.documents import one_line
from rfm_live.model.section import Section
from rfm_live.model.stored import Weights

_TABLES = ("shared.weight", "encoder.embed_tokens.weight")


class TextEncoder:
    """Turns a prompt into the states that the decoder's cross-attention reads.

    `module` is a T5 encoder, `tokenizer` its tokenizer, as transformers makes them; both stay where they are.
    """

    def __init__(self, module: nn.Module, tokenizer: Any) -> None:
        self._model = module
        self._tokenizer = tokenizer

    def encode(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        """Encode one prompt -> (states fp32 [1, S, text_width], mask bool [1, S]), or None for a blank prompt."""
        if not prompt.strip():
            return None
        device = next(self._model.parameters()).device
        tokens = self._tokenizer(prompt, return_tensors="pt")
        mask: Tensor = tokens.attention_mask.to(device)  # [1, S]
        with torch.no_grad():
            states: Tensor = self._model(tokens.input_ids.to(device), attention_mask=mask).last_hidden_state
        return states.float().cpu(), mask.bool().cpu()


def read_text_encoder(path: Path, section: Mapping[str, Any], weights: Weights) -> TextEncoder:
    """Make the text encoder of a folder, in fp32 on the CPU. Raises `CheckpointError`.

    `section` is its T5 configuration, `weights` its tensors without their prefix; the tokenizer is read from the files
    in `path`.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import T5Config, T5EncoderModel

    _check_sizes(Section(f"{path}: text_encoder", section))
    try:
        with torch.device("meta"):
            module: Any = T5EncoderModel(T5Config(**section))
    except (StrictDataclassError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(f"{path}: text_encoder: {one_line(error)}") from error
    tokenizer = _read_tokenizer(path)
    # The token table is stored under either of its two names, or both.
    table = next((key for key in _TABLES if key in weights), None)
    if table is None:
        raise CheckpointError(f"{path}: key 'text_encoder.shared.weight' is missing")
    if len(tokenizer) > weights[table].shape[0]:
        sizes = f"{len(tokenizer)} tokens, text encoder knows {weights[table].shape[0]}"
        raise CheckpointError(f"{path}: tokenizer has {sizes}")
    names = module.state_dict()
    recipe: dict[str, Part] = {name: Joined((table if name in _TABLES else name,)) for name in names}
    source = ModuleSource(f"{path}: text_encoder does not fit", weights, recipe, _TABLES)
    check(module, source)
    fill(module, source, "cpu", torch.float32)
    module.tie_weights()
    return TextEncoder(module.eval(), tokenizer)


def _check_sizes(section: Section) -> None:
    """A module is made of these before any weight is read; the bounds are far above the largest T5."""
    for key, default, most in (
        ("d_model", 512, 1 << 14),
        ("d_kv", 64, 1 << 12),
        ("d_ff", 2048, 1 << 18),
        ("num_layers", 6, 128),
        ("num_heads", 8, 512),
        ("vocab_size", 32_128, 1 << 20),
        ("relative_attention_num_buckets", 32, 1 << 12),
    ):
        section.positive(key, default, most)


def _read_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    # Without these transformers would quietly make a tokenizer that knows no words.
    if not any((path / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise CheckpointError(f"{path}: no tokenizer.json or spiece.model, which prompts need")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that MusicGen's pad token is outside the decoder's vocabulary
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise CheckpointError(f"{path}: tokenizer cannot be read: {one_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
