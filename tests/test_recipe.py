"""The recipe of the embedded checkpoint: same seed, same data; resumable; and it writes a checkpoint that plays."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.embedded.codec_refinement import match_loudness
from rfm_live.embedded.codec_training import CODEBOOKS, ENTRIES, CodecTrainer
from rfm_live.embedded.composer import BASS, INSTRUMENTS, PITCH_CLASSES, compose, note_study
from rfm_live.embedded.corpus import piece, render_corpus
from rfm_live.embedded.decoder_training import (
    DecoderTrainer,
    codebook_losses,
    delayed_columns,
    draw_repeated,
    draw_windows,
    music_labels,
    style_labels,
)
from rfm_live.embedded.render import FRAME_SAMPLES, render_pieces
from rfm_live.embedded.style_classifiers import StyleClassifiers
from rfm_live.embedded.text_parts import build_tokenizer
from rfm_live.embedded.train import train
from rfm_live.model.checkpoint import load_checkpoint

needs_fluidsynth = pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="FluidSynth is not installed")

PIECES = [piece(3, "train", index, 600) for index in range(240)]


def test_a_seed_names_a_piece_for_good() -> None:
    assert piece(3, "train", 7, 600) == PIECES[7]
    assert piece(3, "held_out", 7, 600) != PIECES[7]
    assert piece(4, "train", 7, 600) != PIECES[7]


def test_every_tonic_is_written_and_no_caption_names_it() -> None:
    counts = np.bincount([item.style.tonic for item in PIECES], minlength=12)
    assert counts.min() >= 8  # 20 expected
    names = {name.replace("_", " ") for name in PITCH_CLASSES} | {"major", "minor", "dorian", "key", "sharp", "flat"}
    for item in PIECES:
        words = set(item.caption.lower().replace(",", " ").split()) - {"a"}  # the article
        assert not words & names, item.caption


def test_notes_stay_in_the_piece_and_in_the_instrument() -> None:
    for item in PIECES:
        assert item.notes
        for note in item.notes:
            assert 0 <= note.start < note.start + note.length <= item.frames
            if note.channel == 0:
                assert item.style.instrument.low <= note.pitch <= item.style.instrument.high
            if note.channel == 1:
                assert BASS.low <= note.pitch <= BASS.high
            if note.channel == 9:
                assert item.style.drums


def test_a_study_of_a_note_is_mostly_that_note() -> None:
    for pitch_class in range(12):
        study = note_study(np.random.default_rng(pitch_class), 400, pitch_class, INSTRUMENTS[pitch_class])
        share = np.mean([note.pitch % 12 == pitch_class for note in study.notes])
        assert share >= 0.5


@needs_fluidsynth
def test_sound_begins_on_the_frame_of_its_note_and_equal_notes_sound_equal() -> None:
    item = compose(np.random.default_rng(5), 400, PIECES[0].style)
    first, second = render_pieces([item, item])
    assert len(first) == len(second) == 400 * FRAME_SAMPLES
    onset = np.flatnonzero(np.abs(first.astype(int)) > 30)[0]
    assert 0 <= onset - item.notes[0].start * FRAME_SAMPLES < 10 * FRAME_SAMPLES
    assert np.std(first - second.astype(float)) < 0.02 * np.std(first)


@needs_fluidsynth
def test_an_interrupted_corpus_goes_on_to_the_same_data(tmp_path: Path) -> None:
    render_corpus(tmp_path / "parts", "train", 1, seed=9)
    with (tmp_path / "parts" / "train.i16").open("ab") as torn:
        torn.write(b"torn")
    parts = render_corpus(tmp_path / "parts", "train", 2, seed=9)
    whole = render_corpus(tmp_path / "whole", "train", 2, seed=9)
    assert parts.captions == whole.captions
    # FluidSynth carries voices from one piece of a batch into its own noise floor: equal but for that
    assert np.std(parts.samples - whole.samples.astype(float)) < 0.02 * np.std(whole.samples.astype(float))


@needs_fluidsynth
def test_the_recipe_runs_from_nothing_in_two_sittings_and_writes_a_checkpoint(tmp_path: Path) -> None:
    def sit(minutes: float) -> None:
        train(
            minutes=minutes, folder=tmp_path / "run", target=tmp_path / "checkpoint", pieces=2, held_out=1, seed=1,
            filters=4, layers=1, width=64, codec_minutes=0.03, refine_minutes=0.01, text_steps=3, decoder_minutes=1.0,
            device="cpu",
        )  # fmt: skip

    sit(0.06)
    first = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    sit(0.02)
    second = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert second["codec_steps"] == first["codec_steps"] > 0
    assert second["decoder_steps"] > first["decoder_steps"] > 0
    model = load_checkpoint(tmp_path / "checkpoint")
    assert model.config.codec.causal and model.config.decoder.layers == 1


def test_the_text_encoder_learns_to_tell_styles_by_itself() -> None:
    trainer = DecoderTrainer.create(build_tokenizer([item.caption for item in PIECES]), 1, 1, 64, 4)
    guess = np.mean(np.log([len(INSTRUMENTS), 3, 5, 2, 2]))  # nats of who knows only the numbers of classes
    assert trainer.teach_text(120, 0) < 0.85 * guess
    taught = dict(trainer.model.named_parameters())
    assert all(torch.equal(value, taught[name]) for name, value in trainer.average.items())


def test_a_fresh_decoder_copies_what_followed_the_same_codes_before() -> None:
    trainer = DecoderTrainer.create(build_tokenizer([item.caption for item in PIECES]), 1, 2, 256, 4)
    once = torch.randint(ENTRIES, (1, CODEBOOKS, 50), generator=torch.Generator().manual_seed(2))
    columns = delayed_columns(once.repeat(1, 1, 3))
    with trainer.averaged(), torch.no_grad():
        logits = trainer.logits(columns[..., :-1], [""])
    halves = (slice(50), slice(60, None))
    first, again = (codebook_losses(logits[:, part], columns[..., 1:][..., part]) for part in halves)
    assert (first > 6.0).all()  # nats; ln 512 is 6.24
    assert (again < first - 1.5).all()


def test_the_labels_of_music_tell_style_tonic_place_in_the_bar_and_onsets() -> None:
    item = PIECES[0]
    labels = music_labels(item)
    assert (labels[:, :5] == style_labels(item.style)).all() and (labels[:, 5] == item.style.tonic).all()
    onsets = np.flatnonzero(labels[:, 9])
    assert set(onsets) == {note.start for note in item.notes}
    assert (labels[onsets, 8] == item.style.beat // 4 - 1).all()  # notes begin with a sixteenth
    assert (labels[onsets[1:] - 1, 8] == 0).all()
    assert ((labels[onsets[1:], 7] - labels[onsets[1:] - 1, 7]) % 16 == 1).all()
    assert set(labels[:, 7]) == set(range(16))


def test_windows_come_with_the_labels_of_their_frames_and_short_ones_begin_with_a_bar() -> None:
    pieces = PIECES[:3]
    known = np.stack([music_labels(item) for item in pieces])
    codes = np.stack([np.tile(600 * row + np.arange(600), (CODEBOOKS, 1)) for row in range(3)])  # of piece and frame
    for seed in range(10):
        for frames in (64, 300):
            drawn = draw_windows(codes, [item.style for item in pieces], known, np.random.default_rng(seed), 4, frames)
            windows, texts, labels = drawn
            assert windows.shape == (4, CODEBOOKS, frames) and len(texts) == 4 and labels.shape == (4, frames, 10)
            for window, label in zip(windows.numpy(), labels.numpy(), strict=True):
                piece, start = divmod(int(window[0, 0]), 600)
                assert (label == known[piece, start : start + frames]).all()
                assert frames == 300 or start % (4 * pieces[piece].style.beat) == 0


def test_repeated_windows_are_one_stretch_over_and_over() -> None:
    codes = np.random.default_rng(0).integers(ENTRIES, size=(3, CODEBOOKS, 400)).astype(np.int16)
    for seed in range(20):
        window = draw_repeated(codes, np.random.default_rng(seed), 2, 100).numpy()
        assert window.shape == (2, CODEBOOKS, 100)
        for row in window:
            periods = [lag for lag in range(8, 51) if (row[:, lag:] == row[:, :-lag]).all()]
            assert periods


def test_loudness_is_matched_on_the_median_clip() -> None:
    trainer = CodecTrainer.create(1, 4)
    samples = (np.random.default_rng(1).standard_normal((2, 400 * FRAME_SAMPLES)) * 3000).astype(np.int16)
    before = match_loudness(trainer, samples, 0)
    assert before != pytest.approx(1.0, abs=0.01)
    assert match_loudness(trainer, samples, 0) == pytest.approx(1.0, abs=1e-3)


@needs_fluidsynth
def test_the_classifiers_hear_drums_and_families_in_pieces_they_do_not_know() -> None:
    pieces = [piece(4, "train", index, 200) for index in range(180)]
    clips = [clip.astype(np.float32) / 32767.0 for clip in render_pieces(pieces)]
    styles = [item.style for item in pieces]
    classifiers = StyleClassifiers.fit(clips[:140], styles[:140])
    hits = classifiers.hits(clips[140:], styles[140:])
    assert np.mean(hits["drums"]) >= 0.9
    assert np.mean(hits["family"]) >= 0.35  # one of eight by chance
