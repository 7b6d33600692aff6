"""From a prompt's text to the states that the decoder reads. Engine process; slow, so never called in the frame loop.

A checkpoint folder may carry `prompt_states.safetensors`: states [S, text_width] by prompt text, for prompts that must
sound at once. Any other prompt loads the text encoder, which takes seconds the first time.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rfm_live.errors import CheckpointError

if TYPE_CHECKING:
    from rfm_live.engine.stream import PromptStates
    from rfm_live.model.checkpoint import MusicGen

CACHE_NAME = "prompt_states.safetensors"


class Prompts:
    """Encodes prompts for one checkpoint; callable from one thread beside the frame loop at a time."""

    def __init__(self, model: "MusicGen", encode: "Callable[[str], PromptStates | None] | None" = None) -> None:
        """`encode` takes the place of the model's own text encoder. Raises CheckpointError for broken stored states."""
        self._encode = encode or (lambda text: model.text_encoder().encode(text))
        self._lock = threading.Lock()  # the encoder is loaded once, whoever asks first
        known = {} if model.path is None else _read_cache(model.path / CACHE_NAME, model.config.decoder.text_width)
        self._known = known

    def is_quick(self, text: str) -> bool:
        """Whether `states` answers this text without the text encoder."""
        return not text.strip() or text.strip() in self._known

    def states(self, text: str) -> "PromptStates | None":
        """Encode a prompt -> (states [1, S, text_width], mask [1, S]), None for a blank one. Raises CheckpointError."""
        text = text.strip()
        if not text:
            return None
        if text in self._known:
            states = self._known[text][None]
            return states, torch.ones(states.shape[:2], dtype=torch.bool)
        with self._lock:
            return self._encode(text)


def save_prompt_states(model: "MusicGen", texts: list[str], folder: Path) -> Path:
    """Encode prompts and write them into a checkpoint's folder, where `Prompts` looks first."""
    encoder = model.text_encoder()
    states: dict[str, Tensor] = {}
    for text in texts:
        encoded = encoder.encode(text)
        if encoded is not None:
            states[text.strip()] = encoded[0][0].contiguous()
    path = folder / CACHE_NAME
    save_file(states, path)
    return path


def _read_cache(path: Path, text_width: int) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            known = {text: file.get_tensor(text).float() for text in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for text, states in known.items():
        if states.dim() != 2 or states.shape[1] != text_width or not len(states):
            raise CheckpointError(f"{path}: states of '{text}' are {list(states.shape)}, expected [S, {text_width}]")
    return known
