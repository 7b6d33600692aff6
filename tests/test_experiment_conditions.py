"""Conditions: played as the engine plays them, measured once, and gone on with after an interruption."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.errors import StartError
from rfm_live.experiments.conditions import UNSTEERED, Clips, Condition, Played, Prompt, Studio, hear, turned
from rfm_live.experiments.variants import variant_name, with_blocks, with_directions, with_random
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from tests.experimenting import CLIPS, CountingReader, tiny_bank

STEERED = Played(turned("note_c", 1.0))


def short(settings: tuple[tuple[str, float | str], ...] = (), seed: int = 3, prompt: str = "drums") -> Condition:
    return Condition(prompt, seed, settings, 0.3, 0.1, 0.4)


def test_a_condition_sounds_as_the_engine_plays_it_in_one_go(tiny_model: MusicGen, tmp_path: Path) -> None:
    bank = tiny_bank(tiny_model)
    studio = Studio(tiny_model, bank, tmp_path)
    settings = turned("note_g", 1.5, gate=0.5, layers="top_k", layers_k=2)
    assert settings[-1] == ("/concept/note_g/eta", 1.5)
    studio.samples(short(turned("note_c", 2.0), seed=8))  # another clip before must not matter
    found = studio.samples(short(settings))
    engine = Engine(tiny_model, bank, default_settings(tiny_model.path, tiny_model.config, prompt="drums", seed=3))
    expected = engine.render([(15, address, value) for address, value in settings], 0.8)[round(0.4 * 32_000) :]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(studio.samples(short(settings)), expected)
    assert not np.array_equal(studio.samples(short()), expected)


def test_clips_take_prompts_in_turn_and_words_behind_them() -> None:
    clips = Clips((Prompt("a"), Prompt("")), (1, 2, 3), 4.0, 2.0, 1.0)
    found = clips.conditions(Played((), "in C", 100))
    assert [(one.prompt, one.seed) for one in found] == [("a, in C", 101), ("in C", 102), ("a, in C", 103)]
    assert {(one.lead_seconds, one.settle_seconds, one.heard_seconds) for one in found} == {(2.0, 1.0, 4.0)}


def test_an_interrupted_run_goes_on_where_it_was(tiny_model: MusicGen, tmp_path: Path) -> None:
    studio = Studio(tiny_model, tiny_bank(tiny_model), tmp_path)
    clips = replace(CLIPS, heard_seconds=0.2)
    wanted = [UNSTEERED, STEERED]
    with pytest.raises(KeyboardInterrupt):
        hear(studio, clips, wanted, CountingReader(breaks_at=3))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 and not list(tmp_path.rglob("*.part"))
    told: list[tuple[int, int]] = []
    reader = CountingReader()
    again = Studio(tiny_model, tiny_bank(tiny_model), tmp_path)
    heard = hear(again, clips, wanted, reader, lambda done, count: told.append((done, count)))
    assert reader.read_clips == 1 and told == [(3, 4), (4, 4)]
    for played in wanted:
        for condition, record in zip(clips.conditions(played), heard[played], strict=True):
            assert record["sum"][0] == pytest.approx(again.samples(condition).sum(), rel=1e-4)  # played together
            assert record["length"][0] == 6400


def test_only_what_has_changed_is_played_again(tiny_model: MusicGen, tmp_path: Path) -> None:
    clips, bank = replace(CLIPS, heard_seconds=0.2), tiny_bank(tiny_model)
    wanted = [UNSTEERED, STEERED, Played(turned("note_g", 1.0))]

    def played_again(studio: Studio, taken: Clips = clips) -> int:
        reader = CountingReader()
        hear(studio, taken, wanted, reader)
        return reader.read_clips

    assert played_again(Studio(tiny_model, bank, tmp_path)) == 6
    assert played_again(Studio(tiny_model, with_random(bank, ["note_c"]), tmp_path)) == 0  # more concepts behind
    other = bank.directions.copy()
    other[0] *= -1
    assert played_again(Studio(tiny_model, replace(bank, directions=other), tmp_path)) == 2  # those of note_c
    assert played_again(Studio(tiny_model, bank, tmp_path), replace(clips, settle_seconds=0.1)) == 6
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(b"torn")
    assert (
        played_again(Studio(tiny_model, bank, tmp_path))
        + played_again(Studio(tiny_model, replace(bank, directions=other), tmp_path))
        + played_again(Studio(tiny_model, bank, tmp_path), replace(clips, settle_seconds=0.1))
        == 1
    )


def test_a_checkpoint_that_samples_otherwise_is_played_again(tiny_model: MusicGen, tmp_path: Path) -> None:
    assert tiny_model.path is not None
    shutil.copytree(tiny_model.path, tmp_path / "cooler")
    (tmp_path / "cooler" / "generation_config.json").write_text('{"temperature": 0.5}')
    cooler = load_checkpoint(tmp_path / "cooler")
    assert cooler.sha256 == tiny_model.sha256
    sums = []
    for model in (tiny_model, cooler):
        reader = CountingReader()
        found = Studio(model, tiny_bank(model), tmp_path / "cache").measured([short()], reader)
        assert reader.read_clips == 1
        sums.append(found[short()]["sum"][0])
    assert sums[0] != sums[1]


def test_a_concept_that_the_bank_has_not_ends_with_one_line(tiny_model: MusicGen, tmp_path: Path) -> None:
    studio = Studio(tiny_model, tiny_bank(tiny_model), tmp_path)
    with pytest.raises(StartError, match="concept 'note_x' is not in the bank, expected one of note_c"):
        studio.measured([short(turned("note_x", 1.0))], CountingReader())
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be written"):
        Studio(tiny_model, tiny_bank(tiny_model), tmp_path / "file").measured([short()], CountingReader())


def test_variants_differ_in_their_directions_or_blocks_alone(tiny_model: MusicGen) -> None:
    bank = tiny_bank(tiny_model)
    turned_round = {"note_g": -bank.directions[1]}
    found = with_directions(bank, "other", turned_round)
    assert found.names == (*bank.names, "other__note_g")
    np.testing.assert_array_equal(found.directions[-1], -bank.directions[1])
    np.testing.assert_array_equal(found.scores[-1], bank.scores[1])
    assert with_directions(bank, "none", {}) is bank
    random = with_random(bank, ["note_c", "note_g"])
    assert abs((random.directions[4] * bank.directions[0]).sum(axis=-1)).max() < 0.4
    np.testing.assert_array_equal(random.directions[4], with_random(bank, ["note_c"]).directions[4])
    only = with_blocks(bank, "only_1", ["note_g"], np.arange(bank.layers) == 1)
    np.testing.assert_array_equal(only.layer_weights[-1], [0.0, 1.0, 0.0])
    assert only.names[-1] == variant_name("only_1", "note_g")
