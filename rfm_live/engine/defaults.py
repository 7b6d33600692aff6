"""How a checkpoint wishes to be played: its `generation_config.json` as engine settings. Used by worker and CLI.

`max_length` frames is the longest context that the training has seen (MusicGen: 1500, 30 s); sampling settings are the
usual keys of transformers. A missing file or key leaves MusicGen's own defaults (top-k 250, guidance 3). audiocraft's
layout has no such file: its `xp.cfg` tells guidance and segment, which the configuration holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfm_live.engine.player import EngineSettings
from rfm_live.engine.stream import Window
from rfm_live.errors import CheckpointError, RfmError
from rfm_live.model.config import MusicGenConfig
from rfm_live.model.documents import read_json
from rfm_live.model.sampling import SamplingSettings

FILE = "generation_config.json"


def default_settings(path: Path | None, config: MusicGenConfig, *, prompt: str = "", seed: int = 0) -> EngineSettings:
    """Settings for the checkpoint folder `path` (None: a model from memory), with this prompt and seed.

    Raises:
        CheckpointError: the file is no JSON object, or a value is not a number in its range.
    """
    file = Path(FILE) if path is None else path / FILE
    wishes = read_json(file) if path is not None and file.exists() else {}
    try:
        sampling = SamplingSettings(
            temperature=float(_wished(wishes, "temperature", 1.0)),
            top_k=min(int(_wished(wishes, "top_k", 250)), config.decoder.vocab),
            guidance=float(wishes.get("guidance_scale") or config.guidance),
            seed=seed,
            top_p=float(_wished(wishes, "top_p", 1.0)),
        )
        positions = min(
            config.decoder.max_positions, int(wishes.get("max_length") or config.segment_seconds * config.frame_rate)
        )
        window = Window.fitting(positions, config.segment_seconds, config.frame_rate)
    except (TypeError, ValueError, OverflowError, RfmError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    return EngineSettings(sampling, window, prompt)


def _wished(wishes: Mapping[str, Any], name: str, default: float) -> Any:
    """What the file says of `name`, and `default` where it says nothing or null; 0 is a wish like any other."""
    found = wishes.get(name)
    return default if found is None else found
