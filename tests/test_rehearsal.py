"""The decoder learns from its own playing and from pushes: what it hears, what counts, and that it learns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.concepts.turning import LENGTH
from rfm_live.embedded import CHECKPOINT, rehearsal
from rfm_live.embedded.codec_training import CODEBOOKS, CodecTrainer
from rfm_live.embedded.composer import PITCH_CLASSES
from rfm_live.embedded.corpus import piece
from rfm_live.embedded.decoder_lessons import PAD, Lessons, delayed_columns, draw_captions
from rfm_live.embedded.decoder_training import DecoderTrainer, generation_config
from rfm_live.embedded.export import HEAD_TEMPERATURES
from rfm_live.embedded.leads import LENGTHS, Leads, Pushes, Repertoire, led_concepts
from rfm_live.embedded.rehearsal import (
    Rehearsed,
    as_played,
    free_stretches,
    play_on,
    pushes_file,
    rehearse,
    rehearse_rows,
    returning_loss,
    worth,
)
from rfm_live.embedded.studies import draw_studies
from rfm_live.embedded.text_parts import build_tokenizer
from rfm_live.model.checkpoint import load_checkpoint

FRAMES = 1100
PIECES = [piece(3, "train", index, FRAMES) for index in range(6)]
CODEC = CodecTrainer.create(0, 4).export()
STUDIES = draw_studies(3, chords=1, notes=1)


def decoder() -> DecoderTrainer:
    trainer = DecoderTrainer.create(build_tokenizer(draw_captions(0, 300)), 0, layers=1, width=64, filters=4)
    for name, value in trainer.model.named_parameters():
        if "lm_heads" in name or "encoder_attn" in name:
            value.data *= 8.0  # so that a fresh decoder prefers some codes, and hears its caption
        if name in trainer.average:
            trainer.average[name].copy_(value.detach())
    return trainer


def lessons(codes: np.ndarray) -> Lessons:
    return Lessons(codes.astype(np.int16), PIECES, np.zeros(CODEBOOKS, np.int64))


def leads(known: Lessons, layers: int = 1, width: int = 64, codes: np.ndarray | None = None) -> Leads:
    """Pushes to all concepts, and studies with the codes of the first piece, or with `codes` of theirs."""
    coded = [known.codes[0]] * len(STUDIES) if codes is None else list(codes)
    pushes = Pushes.drawn(len(led_concepts()), torch.ones(layers), width, 0)
    return Leads(Repertoire(known, STUDIES, coded), pushes, led_concepts())


@pytest.fixture
def unled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is pushed."""
    monkeypatch.setattr(rehearsal, "SETS", {"notes": 0.0})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("beat", [20, 28, 48])
def test_free_stretches_go_from_beat_to_beat_and_the_piece_has_the_last_word(seed: int, beat: int) -> None:
    stretches = free_stretches(np.random.default_rng(seed), 768, beat)
    assert stretches[0][0] in (0, 4 * beat, 8 * beat) and stretches[-1][1] <= 768 - beat
    assert all(at % beat == until % beat == 0 and until - at >= 2 * beat for at, until in stretches)
    assert all(before[1] + 2 * beat <= after[0] for before, after in pairwise(stretches))


def test_every_other_row_begins_with_nothing() -> None:
    starts = [free_stretches(np.random.default_rng(seed), 512, 20)[0][0] for seed in range(400)]
    assert 0.4 < starts.count(0) / len(starts) < 0.6


def test_frames_count_the_more_the_sooner_they_follow_free_ones() -> None:
    is_free = np.zeros(100, np.bool_)
    is_free[20:40] = is_free[70:80] = True
    weights = worth(is_free)
    assert (weights[:40] == 0).all() and (weights[70:80] == 0).all()
    assert weights[40] == weights[80] == pytest.approx(1 + rehearsal.LASTING)
    assert (np.diff(weights[40:70]) < 0).all() and (weights[40:70] > rehearsal.LASTING).all()


def test_free_frames_are_drawn_from_what_the_decoder_would_play_after_all_that_came_before(tmp_path: Path) -> None:
    trainer = decoder()
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, 512, (3, CODEBOOKS, 120)))
    columns, captions = delayed_columns(codes), ["fast organ, with drums", "slow flute", ""]
    is_free = torch.zeros(3, 120, dtype=torch.bool)
    is_free[0, 40:80], is_free[1, 20:30], is_free[1, 60:110] = True, True, True
    model = as_played(trainer, CODEC, tmp_path)
    none = torch.zeros(3, 120, 1, 64)
    heard = play_on(model, columns, is_free, captions, 5, 0.8, none)
    is_own = delayed_columns(is_free[:, None].repeat(1, CODEBOOKS, 1).long()) == 1
    assert torch.equal(heard[~is_own], columns[~is_own]) and torch.equal(heard[2], columns[2])
    assert (heard[is_own] != columns[is_own]).float().mean() > 0.9
    assert torch.equal(heard, play_on(model, columns, is_free, captions, 5, 0.8, none))
    assert not torch.equal(heard, play_on(model, columns, is_free, captions, 6, 0.8, none))
    likeliest = [play_on(model, columns, is_free, captions, seed, 1e-4, none) for seed in (5, 6)]
    assert torch.equal(*likeliest), "at next to no temperature there is next to no chance"
    assert not torch.equal(likeliest[0], heard)
    with trainer.averaged():
        logits = trainer.listened(heard[..., :-1], captions).transpose(1, 2)  # [B, K, T, V]
    drawn = logits.gather(-1, heard[..., 1:].clamp(max=511)[..., None])
    rank = (logits > drawn).sum(-1)[is_own[..., 1:]]
    assert (rank <= generation_config().top_k + 3).all()  # fp16 weights turn the order of neighbours


def test_only_what_the_piece_plays_behind_free_frames_counts() -> None:
    codes = torch.from_numpy(np.random.default_rng(2).integers(0, 512, (1, CODEBOOKS, 60)))
    is_free = np.zeros(60, np.bool_)
    is_free[20:40] = True
    logits = torch.randn(1, 60, CODEBOOKS, 512, generator=torch.Generator().manual_seed(0))

    none = torch.zeros(1, 1)

    def loss(of: torch.Tensor) -> torch.Tensor:
        columns = delayed_columns(of)
        return returning_loss(
            logits, Rehearsed(columns, columns, torch.from_numpy(worth(is_free))[None], [""], [20], none, none)
        )

    other = codes.clone()
    other[..., :40] = 0
    assert torch.equal(loss(codes), loss(other))
    for book in range(CODEBOOKS):
        other = codes.clone()
        other[0, book, 40] = (codes[0, book, 40] + 1) % 512
        changed = loss(codes) != loss(other)
        assert changed[book] and changed.sum() == 1


@pytest.mark.usefixtures("unled")
def test_another_piece_may_be_heard_where_the_decoder_does_not_play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FOREIGN", 1.0)
    monkeypatch.setattr(rehearsal, "SHAPES", ((6, 400),))
    monkeypatch.setattr(rehearsal, "CAPTION_DROP", 0.0)
    codes = np.broadcast_to(np.arange(len(PIECES))[:, None, None], (len(PIECES), CODEBOOKS, FRAMES))
    model = load_checkpoint(CHECKPOINT)
    known = lessons(codes)
    rows = rehearse_rows(model, known, leads(known, 6, 256), np.random.default_rng(0))
    heard, told = rows.heard[:, 0, 1:], rows.columns[:, 0, 1:]
    is_piece = rows.worth > 0
    assert (told == told[:, :1]).all() and torch.equal(heard[is_piece], told[is_piece])
    assert (heard != told).any() and heard.max() < len(PIECES)  # nothing was drawn from the model
    for row, first in enumerate(rows.first):
        assert torch.equal(heard[row, :first], told[row, :first])
        begun = rows.begun(200)[row]
        for book in range(CODEBOOKS):
            assert (begun[book, first:] == PAD).all() and (begun[book, book:first] == told[row, 0]).all()


@pytest.mark.usefixtures("unled")
def test_pieces_come_as_often_as_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    often = {(True, False): 1, (True, True): 1, (False, False): 7, (False, True): 0}
    monkeypatch.setattr(rehearsal, "OFTEN", often)
    monkeypatch.setattr(rehearsal, "SHAPES", ((200, 160),))
    monkeypatch.setattr(rehearsal, "FOREIGN", 1.0)  # nothing is played
    codes = np.broadcast_to(np.arange(len(PIECES))[:, None, None], (len(PIECES), CODEBOOKS, FRAMES))
    known = lessons(codes)
    rows = rehearse_rows(load_checkpoint(CHECKPOINT), known, leads(known, 6, 256), np.random.default_rng(0))
    counts = np.bincount(rows.columns[:, 0, 1], minlength=len(PIECES))
    kinds = [often[one.style.drums, one.style.dense] for one in PIECES]
    assert counts / 200 == pytest.approx(np.divide(kinds, sum(kinds)), abs=0.1) and 7 in kinds and 0 in kinds


def test_a_row_that_is_pushed_begins_with_a_free_stretch_and_comes_back_to_what_the_pushes_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rehearsal, "SETS", {"notes": 1.0})  # every row is pushed, to concepts of any set
    monkeypatch.setattr(rehearsal, "SHAPES", ((300, 400),))
    monkeypatch.setattr(rehearsal, "FOREIGN", 1.0)  # nothing is played
    codes = np.broadcast_to(np.arange(len(PIECES))[:, None, None], (len(PIECES), CODEBOOKS, FRAMES))
    numbers = np.arange(len(STUDIES))[:, None, None] + 100
    known, studied = lessons(codes), np.broadcast_to(numbers, (len(STUDIES), CODEBOOKS, FRAMES))
    led = leads(known, 6, 256, studied)
    rows = rehearse_rows(load_checkpoint(CHECKPOINT), known, led, np.random.default_rng(0))
    is_free = rows.worth == 0
    assert is_free[:, 0].all() and rows.first == [0] * 300
    lengths = is_free.long().cumprod(1).sum(1)  # frames of the first stretch
    assert ((rows.since >= 0) & (rows.since <= lengths)).all()
    shares = [(rows.since == 0).float().mean(), (rows.since == lengths).float().mean()]
    assert shares == pytest.approx([rehearsal.AT_ONCE, rehearsal.AT_RETURN], abs=0.1)
    for row in range(300):
        number = int(rows.columns[row, 0, 1])
        shown = STUDIES[number - 100].concept if number >= 100 else None
        style = STUDIES[number - 100].piece.style if number >= 100 else PIECES[number].style
        pushed = {led.concepts[place]: float(rows.shares[row, place]) for place in rows.shares[row].nonzero().flatten()}
        assert 1 <= len(pushed) <= 2
        for name, share in pushed.items():
            kind, _, said = name.partition("_")
            truth = {
                "note": PITCH_CLASSES[style.tonic], "mode": style.mode, "timbre": style.instrument.family,
                "texture": style.texture, "chord": (shown or "").removeprefix("chord_"),
            }  # fmt: skip
            goes_up = {"tempo": style.tempo == "fast", "density": style.dense, "drums": style.drums}
            assert said == truth[kind] if said else (share > 0) == goes_up[kind]
            assert LENGTHS[0] <= abs(share) <= LENGTHS[1] and (share > 0 or not said)


def test_captions_ask_for_something_else_than_the_pushes() -> None:
    known = lessons(np.zeros((len(PIECES), CODEBOOKS, FRAMES)))
    repertoire = leads(known).repertoire
    for seed in range(300):
        led = repertoire.draw(np.random.default_rng(seed))
        told = {
            "timbre": led.asked.instrument.family, "mode": led.asked.mode, "texture": led.asked.texture,
        }  # fmt: skip
        for name in led.shares:
            kind, _, said = name.partition("_")
            if kind in told:
                assert said != told[kind]
        if {"tempo", "density", "drums"} & set(led.shares):
            differs = led.asked.tempo != led.style.tempo, led.asked.dense != led.style.dense
            assert any((*differs, led.asked.drums != led.style.drums))
        if not any(name.startswith("timbre") for name in led.shares):
            assert led.asked.instrument == led.style.instrument


def test_pushes_act_from_their_frame_on_and_as_long_as_they_say(tmp_path: Path) -> None:
    pushes = Pushes.drawn(3, torch.tensor([2.0, 4.0]), 8, 1)
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    acting = pushes.along(shares, torch.tensor([2, 0, 0]), 5).detach()
    assert acting.shape == (3, 5, 2, 8) and (acting[0, :2] == 0).all() and (acting[2] == 0).all()
    told = acting.norm(dim=-1) / torch.tensor([2.0, 4.0])  # in lengths of hidden states
    assert told[0, 2:].mean(-1).tolist() == pytest.approx([LENGTH] * 3)
    assert told[1].mean(-1).tolist() == pytest.approx([2 * LENGTH] * 5)
    pushes.save(tmp_path / "pushes.safetensors")
    again = Pushes.load(tmp_path / "pushes.safetensors")
    assert again is not None and torch.allclose(again.along(shares, torch.tensor([2, 0, 0]), 5), acting)
    assert Pushes.load(tmp_path / "nothing.safetensors") is None


def test_what_is_played_under_pushes_is_what_the_trainer_tells_under_them(tmp_path: Path) -> None:
    trainer = decoder()
    columns = delayed_columns(torch.from_numpy(np.random.default_rng(1).integers(0, 512, (2, CODEBOOKS, 60))))
    pushes = Pushes.drawn(1, torch.full((1,), 40.0), 64, 0).along(torch.ones(2, 1), torch.tensor([10, 30]), 60).detach()
    model = as_played(trainer, CODEC, tmp_path)
    captions = ["fast organ", "slow flute"]
    with trainer.averaged(), torch.no_grad():
        plain, pushed = (trainer.logits(columns[..., :-1], captions, one) for one in (None, pushes))
    cache, cross = model.decoder.new_cache(2, 60), rehearsal._cross(model, captions)
    with torch.inference_mode():
        played = model.decoder(columns[..., :60], 0, cache, cross, pushes)
    assert torch.allclose(plain[0, :10], pushed[0, :10], atol=1e-5)
    assert (pushed - plain)[0, 10:].abs().mean() > 0.1 and (pushed - plain)[1, 30:].abs().mean() > 0.1
    sharper = torch.tensor(HEAD_TEMPERATURES)[:, None]  # what export divides the heads by
    assert torch.allclose(played * sharper, pushed[:, :60], atol=0.05)  # fp16 weights
    with trainer.averaged(), torch.no_grad():
        assert torch.equal(trainer.logits(columns[..., :-1], captions), plain)  # no push stays behind


@pytest.mark.parametrize("is_led", [False, True])
def test_a_decoder_learns_what_comes_back_after_its_own_playing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_led: bool
) -> None:
    monkeypatch.setattr(rehearsal, "SETS", {"notes": float(is_led)})
    monkeypatch.setattr(rehearsal, "RATE", 3e-3)
    monkeypatch.setattr(rehearsal, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(rehearsal, "SHAPES", ((4, 256),))
    codes = np.tile(np.arange(FRAMES) % 5 * 7, (len(PIECES), CODEBOOKS, 1))  # what the piece plays is told by the frame
    known, before, student = lessons(codes), decoder(), decoder()
    kept = {name: value.clone() for name, value in before.model.named_parameters()}
    text = student.model.text_encoder.encoder.embed_tokens.weight.detach().clone()
    led = leads(known)
    began = led.pushes.unit()
    rows = rehearse_rows(as_played(student, CODEC, tmp_path / "model"), known, led, np.random.default_rng(0))
    assert sorted(rows.captions, key=lambda one: one == "") == rows.captions
    assert sum(len(part.captions) for part in rows.parts(np.random.default_rng(0))) == 4

    def returning() -> float:
        with student.averaged(), torch.no_grad():
            pushes = led.pushes.along(rows.shares, rows.since, rows.worth.shape[1])
            return float(returning_loss(student.logits(rows.heard[..., :-1], rows.captions, pushes), rows)[0])

    first, told = returning(), []
    for _ in range(2):
        rehearse(
            student, before, CODEC, known, led, 0.06, tmp_path / "rehearsed.pt",
            total_minutes=1.0, seed=0, report=lambda step, losses: told.append((step, losses[0])),
        )  # fmt: skip
    assert returning() < 0.7 * first
    assert told[-1][0] == student.rehearsed_steps and told[-1][1] < told[0][1]
    assert all(torch.equal(value, kept[name]) for name, value in before.model.named_parameters())
    assert torch.equal(text, student.model.text_encoder.encoder.embed_tokens.weight)
    again = decoder()
    again.load(tmp_path / "rehearsed.pt")
    assert (again.rehearsed_steps, again.distilled_steps) == (student.rehearsed_steps, 0)
    kept_pushes = Pushes.load(pushes_file(tmp_path / "rehearsed.pt"))
    assert kept_pushes is not None and torch.allclose(kept_pushes.unit(), led.pushes.unit(), atol=1e-6)
    moved = (led.pushes.unit() - began).norm(dim=-1).mean(dim=1) > 1e-3  # [C]
    assert moved.any() == is_led
