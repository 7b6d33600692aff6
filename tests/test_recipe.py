"""The recipe of the embedded checkpoint: same seed, same data; resumable; and it writes a checkpoint that plays."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rfm_live.concepts.array_files import kept
from rfm_live.embedded import export, guidance_distillation, take_scores, takes
from rfm_live.embedded import train as train_module
from rfm_live.embedded.codec_refinement import match_loudness
from rfm_live.embedded.codec_training import CODEBOOKS, ENTRIES, CodecTrainer
from rfm_live.embedded.composer import BASS, INSTRUMENTS, PITCH_CLASSES, compose, note_study
from rfm_live.embedded.corpus import piece, render_corpus
from rfm_live.embedded.decoder_lessons import (
    PAD,
    Lessons,
    delayed_columns,
    draw_captions,
    draw_repeated,
    draw_windows,
    music_labels,
    style_labels,
)
from rfm_live.embedded.decoder_training import DecoderTrainer, codebook_losses
from rfm_live.embedded.guidance_distillation import (
    GUIDANCE,
    distil_guidance,
    divergences,
    guided_logits,
    with_other_captions,
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
def test_the_recipe_runs_from_nothing_in_several_sittings_and_writes_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (train_module, take_scores):
        monkeypatch.setattr(module, "JUDGED", 40)
    for name, value in {"WISHES": 1, "TAKES": 2, "COMPARED": 1, "UNPUSHED": 4, "UNPUSHED_FRAMES": 64}.items():
        monkeypatch.setattr(takes, name, value)

    def sit(minutes: float, rehearse_minutes: float = 1.0, note_studies: int = 1) -> dict[str, float]:
        train(
            minutes=minutes, folder=tmp_path / "run", target=tmp_path / "checkpoint", pieces=2, held_out=1, seed=1,
            filters=4, layers=1, width=64, codec_minutes=0.03, refine_minutes=0.01, text_steps=3, decoder_minutes=0.03,
            distil_minutes=0.01, rehearse_minutes=rehearse_minutes, compare_minutes=0.01, chord_studies=1,
            note_studies=note_studies, device="cpu",
        )  # fmt: skip
        told: dict[str, float] = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
        return told

    first, second = sit(0.06), sit(0.03)
    assert second["codec_steps"] == first["codec_steps"] > 0
    assert second["decoder_steps"] > first["decoder_steps"] > 0
    assert second["distilled_steps"] > first["distilled_steps"] == 0
    assert second["rehearsed_steps"] > first["rehearsed_steps"] == 0
    third = sit(0.005, note_studies=2)
    assert third["rehearsed_steps"] > second["rehearsed_steps"]
    studies = [kept(file) for file in sorted((tmp_path / "run").glob("studies_*"))]
    assert [len(codes["codes"]) for codes in studies if codes] == [4 + 12, 4 + 24]
    last = sit(0.01, rehearse_minutes=0.001)
    assert last["rehearsed_steps"] == third["rehearsed_steps"] and last["compared_steps"] > third["compared_steps"] == 0
    model = load_checkpoint(tmp_path / "checkpoint")
    assert model.config.codec.causal and model.config.decoder.layers == 1
    before, after = (
        torch.load(tmp_path / "run" / f"{name}.pt", weights_only=True)["average"] for name in ("rehearsed", "compared")
    )
    written = load_file(tmp_path / "checkpoint" / "model.safetensors")
    name, share = "decoder.model.decoder.layers.0.fc1.weight", last["compared_share"]
    expected = share * after[name] + (1 - share) * before[name]
    torch.testing.assert_close(written[name].float(), expected, rtol=1e-3, atol=1e-6)
    assert 0 < share < 1 and not torch.equal(after[name], before[name])


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


def test_the_notes_of_a_marimba_are_struck_again_before_they_have_died_away() -> None:
    style = replace(PIECES[0].style, texture="pedal", tempo="slow", beat=48, dense=False, drums=False, bass=False)
    lengths = {}
    for name in ("marimba", "vibraphone"):
        instrument = next(one for one in INSTRUMENTS if one.name == name)
        item = compose(np.random.default_rng(3), 480, replace(style, instrument=instrument))
        onsets = sorted({note.start for note in item.notes})
        lengths[name] = set(np.diff(onsets))
        for onset, following in pairwise(onsets):
            assert all(onset + note.length < following for note in item.notes if note.start == onset)
    assert lengths == {"marimba": {48}, "vibraphone": {96}}


def test_an_unguided_decoder_learns_to_play_as_if_guided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance_distillation, "RATE", 3e-3)
    monkeypatch.setattr(guidance_distillation, "WARM_UP_STEPS", 1)

    def fresh() -> DecoderTrainer:
        trainer = DecoderTrainer.create(build_tokenizer(draw_captions(0, 300)), 0, layers=1, width=64, filters=4)
        for name, value in trainer.model.named_parameters():
            if "encoder_attn." in name or "enc_to_dec" in name or "lm_heads" in name:
                value.data *= 6.0  # so that a fresh decoder hears its caption
            if name in trainer.average:
                trainer.average[name].copy_(value.detach())
        return trainer

    pieces = [piece(3, "train", index, 1100) for index in range(8)]
    codes = np.random.default_rng(0).integers(0, 512, (len(pieces), 4, 1100)).astype(np.int16)
    columns, captions = torch.from_numpy(codes[:2, :, :32].astype(np.int64)), ["slow organ", ""]
    teacher = fresh()
    with teacher.averaged():
        alone, empty = teacher.listened(columns, captions), teacher.listened(columns, ["", ""])
        guided = guided_logits(teacher, columns, captions)
    assert torch.allclose(guided[0], empty[0] + GUIDANCE * (alone[0] - empty[0]), atol=1e-5)
    assert torch.equal(guided[1], alone[1])
    before = {name: value.clone() for name, value in teacher.model.named_parameters()}

    def apart() -> float:
        with student.averaged():
            return float(divergences(guided, student.listened(columns, captions), columns).sum())

    student = fresh()
    first = apart()
    text = student.model.text_encoder.encoder.embed_tokens.weight.detach().clone()
    for _ in range(2):
        distil_guidance(
            student, teacher, Lessons(codes, pieces, np.zeros(4, np.int64)), 0.06, tmp_path / "distilled.pt",
            total_minutes=1.0, seed=0, report=lambda step, values: None,
        )  # fmt: skip
    assert apart() < 0.85 * first
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.named_parameters())
    assert torch.equal(text, student.model.text_encoder.encoder.embed_tokens.weight)
    again = fresh()
    again.load(tmp_path / "distilled.pt")
    assert (again.distilled_steps, again.step) == (student.distilled_steps, 0)


def test_what_is_not_played_counts_in_no_divergence() -> None:
    wanted, found = torch.randn(2, 1, 5, 4, 8)
    targets = torch.zeros(1, 4, 5, dtype=torch.long)
    assert torch.equal(divergences(wanted, wanted, targets), torch.zeros(4))
    plain = divergences(wanted, found, targets)
    assert (plain > 0).all()
    targets[0, 1, 2:] = PAD
    other = found.clone()
    other[0, 2:, 1] = 100.0 * torch.randn(3, 8)
    shorter, changed = divergences(wanted, found, targets), divergences(wanted, other, targets)
    assert torch.allclose(shorter, changed) and torch.equal(shorter[[0, 2, 3]], plain[[0, 2, 3]])
    reference = (
        torch.distributions.Categorical(logits=wanted[0, :2, 1]),
        torch.distributions.Categorical(logits=found[0, :2, 1]),
    )
    assert torch.allclose(shorter[1], torch.distributions.kl_divergence(*reference).mean(), atol=1e-6)


def test_other_captions_never_stand_where_none_was() -> None:
    styles = [item.style for item in PIECES]
    captions = ["", *["a caption"] * 400]
    drawn = with_other_captions(captions, styles, np.random.default_rng(0))
    assert drawn[0] == "" and 0.25 < np.mean([text != "a caption" for text in drawn[1:]]) < 0.45


def test_windows_come_with_the_labels_of_their_frames_and_turn_to_another_tonic_at_a_bar() -> None:
    styles = [item.style for item in PIECES]
    known = np.stack([music_labels(item) for item in PIECES])
    codes = np.stack([np.tile(600 * row + np.arange(600), (CODEBOOKS, 1)) for row in range(len(PIECES))])
    turns, drawn = 0, 0
    for seed in range(60):
        for frames in (64, 300):
            windows, texts, labels = draw_windows(codes, styles, known, np.random.default_rng(seed), 4, frames)
            assert windows.shape == (4, CODEBOOKS, frames) and labels.shape == (4, frames, 10)
            for window, text, label in zip(windows.numpy(), texts, labels.numpy(), strict=True):
                pieces, places = np.divmod(window[0], 600)
                assert (label == known[pieces, places]).all()
                first, last = styles[pieces[0]], styles[pieces[-1]]
                jumps = np.flatnonzero(np.diff(window[0]) != 1) + 1
                assert frames == 300 or places[0] % (4 * first.beat) == 0
                if len(jumps):
                    (at,) = jumps
                    assert first.tonic != last.tonic and at % (4 * first.beat) == 0 and frames - at >= 40
                    assert places[0] % (4 * first.beat) == 0 == places[at] % (4 * last.beat)
                    same = (first.instrument, first.tempo, first.drums) == (last.instrument, last.tempo, last.drums)
                    assert same or not text
                turns, drawn = turns + len(jumps), drawn + (frames == 300)
    assert 0.15 < turns / drawn < 0.4


def test_repeated_windows_are_one_stretch_over_and_over() -> None:
    codes = np.random.default_rng(0).integers(ENTRIES, size=(3, CODEBOOKS, 400)).astype(np.int16)
    for seed in range(20):
        window = draw_repeated(codes, np.random.default_rng(seed), 2, 100).numpy()
        assert window.shape == (2, CODEBOOKS, 100)
        for row in window:
            periods = [lag for lag in range(8, 51) if (row[:, lag:] == row[:, :-lag]).all()]
            assert periods


def test_the_heads_are_divided_by_their_temperatures_and_nothing_else_is() -> None:
    weights = {f"decoder.lm_heads.{book}.weight": torch.full((2, 3), 4.2) for book in range(4)}
    weights["decoder.norm.weight"] = torch.ones(3)
    found = export._sharpened(weights)
    assert found.keys() == weights.keys() and torch.equal(found["decoder.norm.weight"], torch.ones(3))
    for book, temperature in enumerate(export.HEAD_TEMPERATURES):
        torch.testing.assert_close(found[f"decoder.lm_heads.{book}.weight"], torch.full((2, 3), 4.2 / temperature))
    with pytest.raises(KeyError, match=r"decoder\.lm_heads\.3\.weight"):
        export._sharpened({name: weight for name, weight in weights.items() if "heads.3" not in name})


def test_one_code_is_lifted_whatever_is_heard() -> None:
    trainer = DecoderTrainer.create(build_tokenizer([item.caption for item in PIECES]), 1, 1, 64, 4)
    columns = delayed_columns(torch.randint(ENTRIES, (2, CODEBOOKS, 20), generator=torch.Generator().manual_seed(2)))
    fresh = trainer.model.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in export.lifted(fresh, 7, 1.5).items())
    with torch.no_grad():
        norm, drawn = trainer.model.decoder.model.decoder.layer_norm, torch.Generator().manual_seed(3)
        norm.weight += 0.3 * torch.rand(64, generator=drawn)
        norm.bias += 0.3 * torch.rand(64, generator=drawn)
        trainer.model.eval()
        before = trainer.logits(columns, ["slow piano", ""])
        trainer.model.load_state_dict(export.lifted(trainer.model.state_dict(), 7, 1.5))
        difference = trainer.logits(columns, ["slow piano", ""]) - before  # [B, T, K, V]
    expected = torch.zeros_like(difference)
    expected[:, :, 0, 7] = 1.5
    torch.testing.assert_close(difference, expected, rtol=0.0, atol=1e-4)


def test_what_is_written_rests_for_less_long(tmp_path: Path) -> None:
    codec = CodecTrainer.create(1, 4)
    trainer = DecoderTrainer.create(build_tokenizer([item.caption for item in PIECES]), 1, 1, 64, 4)
    head, norm = "decoder.lm_heads.0.weight", "decoder.model.decoder.layer_norm"
    trainer.average[f"{norm}.bias"] += 0.3
    export.write_checkpoint(tmp_path / "checkpoint", codec.export(), trainer)
    written = load_file(tmp_path / "checkpoint" / "model.safetensors")
    lowered = (written[head].float() - trainer.average[head]) @ written[f"{norm}.bias"].float()  # at the norm's middle
    expected = torch.zeros(len(lowered))
    expected[codec.silence()[0]] = -export.REST_NATS
    torch.testing.assert_close(lowered, expected, rtol=0.0, atol=0.01)


def test_the_code_of_silence_is_that_of_a_second_of_it() -> None:
    codec = CodecTrainer.create(1, 4)
    assert export.code_of_silence(codec.export()) == codec.silence()[0]


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
