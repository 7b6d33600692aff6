"""What is heard of lessons is kept, by the codec that coded them, and teaches the classifiers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.embedded import heard_lessons
from rfm_live.embedded.heard_lessons import FRAMES, codec_digest, hear_lessons
from rfm_live.embedded.style_classifiers import spoken_style
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.places import EMBEDDED, checkpoint_folder

pytestmark = pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="FluidSynth is not installed")


def quietly(done: int, count: int) -> None:
    assert 1 <= done <= count


@pytest.fixture(scope="module")
def model() -> MusicGen:
    return load_checkpoint(checkpoint_folder(EMBEDDED))


def test_what_was_heard_is_read_again_and_teaches_the_classifiers(
    model: MusicGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hear_lessons(model, 24, tmp_path, quietly)
    assert len(first.features) == 48 and first.codes.shape == (24, 4, FRAMES) and len(first.styles) == 24
    assert {first.styles[place].drums for place in range(24)} == {True, False}
    monkeypatch.setattr(heard_lessons, "rendered", None)  # nothing is rendered twice
    again = hear_lessons(model, 24, tmp_path, quietly)
    assert np.array_equal(first.features, again.features) and np.array_equal(first.codes, again.codes)
    classifiers = again.classifiers(spoken_style)
    assert set(classifiers.by_attribute) == {"family", "drums", "tempo", "density"}


def test_lessons_belong_to_the_codec_and_not_to_the_decoder(model: MusicGen) -> None:
    other = load_checkpoint(checkpoint_folder(EMBEDDED))
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1.0)
    assert codec_digest(other) == codec_digest(model)
    with torch.no_grad():
        next(other.codec.parameters()).add_(1.0)
    assert codec_digest(other) != codec_digest(model)
