"""The twelve note knobs of the bank that ships, heard by a chroma meter that never saw the probes."""

import numpy as np
import pytest

from rfm_live.concepts.stage import Play
from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.embedded.composer import PITCH_CLASSES
from rfm_live.embedded.notes import evaluate_notes
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.places import bank_file
from rfm_live.steering.bank import ConceptBank, load_bank


@pytest.fixture(scope="module")
def model() -> MusicGen:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def bank(model: MusicGen) -> ConceptBank:
    path = bank_file(None, "embedded")
    assert path is not None
    decoder = model.config.decoder
    return load_bank(path, decoder.layers, decoder.width, model.sha256)


def test_the_bank_names_the_twelve_notes_of_this_checkpoint(bank: ConceptBank) -> None:
    assert bank.names == tuple(f"note_{name}" for name in PITCH_CLASSES)


def test_a_note_knob_triples_its_pitch_class_and_a_random_direction_does_not(
    model: MusicGen, bank: ConceptBank
) -> None:
    """The bar: 3 times the frames, mean over 12 notes; less than a third of that change at random. One fresh seed here;
    four seeds stand in the bank's report."""
    summary = evaluate_notes(
        model, bank, [900], Play(heard_seconds=3.0, lead_seconds=3.0, prompt=DEFAULT_PROMPT)
    ).summary()
    assert summary["ratio"] >= 3.0, summary
    assert summary["random_change_over_change"] < 1 / 3, summary


def test_every_direction_tells_its_note_apart_on_an_unheard_instrument(bank: ConceptBank) -> None:
    assert np.all(bank.scores.max(axis=1) > 0.6)
