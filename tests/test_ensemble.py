"""Pieces played together: each is what the engine plays alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rfm_live.experiments.conditions import Condition, Settings, Studio, turned
from rfm_live.experiments.ensemble import Ensemble
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from tests.experimenting import tiny_bank


def condition(seed: int, settings: Settings = (), prompt: str = "calm piano", heard: float = 0.3) -> Condition:
    return Condition(prompt, seed, settings, lead_seconds=0.2, settle_seconds=0.1, heard_seconds=heard)


CONDITIONS = [
    condition(1),
    condition(1, turned("note_c", 1.0)),
    condition(2, turned("note_c", -2.0, gate=0.5)),
    condition(2, (("/orthogonal", "dual"), *turned("note_c", 1.0), *turned("note_g", 1.0))),
    condition(3, turned("brightness", 0.5), "bright drums, a much longer prompt than the others"),
    condition(3, (), "bright drums", 0.4),
    condition(4, turned("note_g", 1.0, slew=200.0), heard=0.4),
]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_piece_sounds_as_the_engine_plays_it_whoever_plays_beside_it(
    tiny_path: Path, tmp_path: Path, guidance: float
) -> None:
    folder = shutil.copytree(tiny_path, tmp_path / "checkpoint")
    wishes = folder / "generation_config.json"
    wishes.write_text(json.dumps(json.loads(wishes.read_text()) | {"guidance_scale": guidance}))
    model = load_checkpoint(folder)
    bank = tiny_bank(model)
    studio, ensemble = Studio(model, bank, cache=None), Ensemble(model, bank, voices=3)  # type: ignore[arg-type]
    assert all(ensemble.can_play(one) for one in CONDITIONS)
    heard = dict(ensemble.samples(CONDITIONS))
    for one in CONDITIONS:
        alone = studio.samples(one)
        assert heard[one].shape == alone.shape
        np.testing.assert_allclose(heard[one], alone, atol=1e-4, err_msg=str(one))
    assert not np.allclose(heard[CONDITIONS[0]], heard[CONDITIONS[1]], atol=1e-2)


@pytest.mark.parametrize(
    "left",
    [
        condition(1, turned("note_c", 1.0, mode="clamp")),
        condition(1, turned("note_c", 1.0, rows="conditional")),
        condition(1, (("/guidance", 1.0),)),
        condition(1, prompt=" "),
        condition(1, heard=30.0),
    ],
)
def test_what_is_no_plain_push_is_left_to_the_engine(tiny_model: MusicGen, left: Condition) -> None:
    assert not Ensemble(tiny_model, tiny_bank(tiny_model)).can_play(left)
