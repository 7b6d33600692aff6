"""The banks that ship: they fit the embedded checkpoint, each has its report, and their cards hold the notes' bars."""

import json

import numpy as np
import pytest

from rfm_live.embedded import CHECKPOINT
from rfm_live.embedded.banks import GATES
from rfm_live.embedded.turns import concept_sets
from rfm_live.model.checkpoint import open_checkpoint
from rfm_live.places import presets, shipped_bank
from rfm_live.steering.bank import ConceptBank, load_bank

BANKS = presets() / "banks"


def shipped(name: str) -> ConceptBank:
    config = open_checkpoint(CHECKPOINT).config.decoder
    sha256 = json.loads((CHECKPOINT / "meters.json").read_text())["sha256"]  # test_embedded holds it against the file
    return load_bank(BANKS / f"{name}.safetensors", config.layers, config.width, sha256)


@pytest.mark.parametrize("name", concept_sets())
def test_every_set_ships_with_its_report_and_picture(name: str) -> None:
    bank = shipped(f"embedded_{name}")
    assert bank.names == concept_sets()[name]
    np.testing.assert_array_equal(bank.gate, np.float32(GATES.get(name, 1.0)))
    report = (BANKS / f"embedded_{name}.md").read_text()
    assert bank.checkpoint_sha256[:12] in report
    assert (BANKS / f"embedded_{name}.png").stat().st_size > 1000
    assert all(card.effect is not None and card.effect.seeds >= 3 for card in bank.cards)


def test_the_bank_that_play_loads_holds_every_concept() -> None:
    whole = shipped(shipped_bank().stem)
    assert whole.names == tuple(name for names in concept_sets().values() for name in names)
    for name in concept_sets():
        bank = shipped(f"embedded_{name}")
        places = [whole.names.index(concept) for concept in bank.names]
        np.testing.assert_array_equal(whole.directions[places], bank.directions)
        np.testing.assert_array_equal(whole.unit[places], bank.unit)


def test_the_notes_dominate_most_frames_at_one_and_a_random_push_does_not() -> None:
    effects = [card.effect for card in shipped("embedded_notes").cards if card.effect is not None]
    assert np.mean([effect.at_plus for effect in effects]) >= 0.75
    assert np.mean([effect.at_zero for effect in effects]) <= 0.15
    assert np.mean([effect.at_random for effect in effects]) <= 0.25


def test_families_are_named_under_prompts_that_ask_for_others_and_fast_is_faster_than_slow() -> None:
    """At 1 and, of the tempo, at -1; the reports tell of those prompts alone that ask for another family."""
    families = [card.effect for card in shipped("embedded_timbres").cards if card.effect is not None]
    assert np.mean([effect.at_plus for effect in families]) >= 0.7 >= 0.35 >= np.mean([e.at_zero for e in families])
    (tempo,) = (card.effect for card in shipped("embedded_tempo").cards if card.effect is not None)
    assert tempo.at_plus >= 1.6 * tempo.at_minus


def test_the_pairs_are_reported_for_this_checkpoint() -> None:
    assert shipped("embedded").checkpoint_sha256[:12] in (BANKS / "embedded_pairs.md").read_text()
