"""How a checkpoint wishes to be played: its `generation_config.json` as engine settings. Used by worker and CLI.

`max_length` frames is the longest context that the training has seen (MusicGen: 1500, 30 s); sampling settings are the
usual keys of transformers. A missing file or key leaves MusicGen's own defaults (top-k 250, guidance 3).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rfm_live.engine.player import EngineSettings
from rfm_live.engine.stream import Window
from rfm_live.errors import CheckpointError
from rfm_live.model.config import MusicGenConfig
from rfm_live.model.sampling import SamplingSettings

FILE = "generation_config.json"


def default_settings(path: Path, config: MusicGenConfig, *, prompt: str = "", seed: int = 0) -> EngineSettings:
    """Settings for the checkpoint folder `path`, with this prompt and seed.

    Raises:
        CheckpointError: the file is no JSON object, or a value is not a number in its range.
    """
    wishes = _read(path / FILE)
    try:
        sampling = SamplingSettings(
            temperature=float(wishes.get("temperature") or 1.0),
            top_k=min(int(wishes.get("top_k") or 250), config.decoder.vocab),
            guidance=float(wishes.get("guidance_scale") or 3.0),
            seed=seed,
        )
        positions = min(config.decoder.max_positions, int(wishes.get("max_length") or 1500))
        window = Window.fitting(positions, frame_rate=config.frame_rate)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path / FILE}: {error}") from error
    return EngineSettings(sampling, window, prompt)


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        wishes = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: is no JSON: {error}") from error
    if not isinstance(wishes, dict):
        raise CheckpointError(f"{file}: holds {type(wishes).__name__}, expected an object")
    return wishes
