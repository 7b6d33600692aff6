"""How a checkpoint wishes to be played: its `generation_config.json` as settings, and what it may not wish."""

import json
from pathlib import Path

import pytest

from rfm_live.engine.defaults import FILE, default_settings
from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.sampling import SamplingSettings


def wishing(folder: Path, **wishes: object) -> Path:
    (folder / FILE).write_text(json.dumps(wishes))
    return folder


def test_what_the_file_wishes_is_played(tiny_model: MusicGen, tmp_path: Path) -> None:
    wishes = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "guidance_scale": 1.2, "max_length": 200}
    settings = default_settings(wishing(tmp_path, **wishes), tiny_model.config, seed=5)
    assert settings.sampling == SamplingSettings(0.8, 40, 1.2, 5, 0.9)
    assert settings.window is not None and settings.window.frames == 200


def test_what_the_file_leaves_out_is_musicgens_own(tiny_model: MusicGen, tmp_path: Path) -> None:
    config = tiny_model.config
    for folder in (wishing(tmp_path), wishing(tmp_path, top_p=None), tmp_path / "nowhere"):
        assert default_settings(folder, config).sampling == SamplingSettings(guidance=3.0, top_k=config.decoder.vocab)


def test_nothing_is_a_wish_too(tiny_model: MusicGen, tmp_path: Path) -> None:
    folder = wishing(tmp_path, temperature=0, top_k=0, top_p=0)
    sampling = default_settings(folder, tiny_model.config).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 0, 0.0)


@pytest.mark.parametrize("wish", [{"temperature": 9}, {"top_p": 1.5}, {"top_p": "most"}, {"guidance_scale": -1}])
def test_a_wish_out_of_range_is_refused_with_its_file(
    wish: dict[str, object], tiny_model: MusicGen, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=FILE):
        default_settings(wishing(tmp_path, **wish), tiny_model.config)
