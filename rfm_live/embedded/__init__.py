"""The small MusicGen checkpoint that ships with the package, and the recipe that trains it from nothing.

`checkpoint/` holds the files (transformers layout); the other modules are the recipe, run by `python -m
rfm_live.embedded.train`. Playing needs none of them: only `CHECKPOINT` below.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the shipped checkpoint: config.json, model.safetensors, tokenizer files, prompt_states.safetensors,
MODEL_CARD.md.
"""

DEFAULT_PROMPT = "guitar arpeggio with drums, fast"
"""What plays when the performer names no prompt; its text states are in the checkpoint, so no text encoder is loaded.
"""

LISTENING_PROMPT = "warm strings arpeggio, medium tempo, dense"
"""What `rfm-live learn` plays to hear what a new knob does: drums would cover it."""
