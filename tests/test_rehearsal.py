"""The decoder learns from its own playing: what it hears, what counts, and that it learns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.embedded import CHECKPOINT, rehearsal
from rfm_live.embedded.codec_training import CODEBOOKS, CodecTrainer
from rfm_live.embedded.corpus import piece
from rfm_live.embedded.decoder_lessons import PAD, Lessons, delayed_columns, draw_captions
from rfm_live.embedded.decoder_training import DecoderTrainer, generation_config
from rfm_live.embedded.rehearsal import (
    Rehearsed,
    as_played,
    free_stretches,
    play_on,
    rehearse,
    rehearse_rows,
    returning_loss,
    worth,
)
from rfm_live.embedded.text_parts import build_tokenizer
from rfm_live.model.checkpoint import load_checkpoint

FRAMES = 1100
PIECES = [piece(3, "train", index, FRAMES) for index in range(6)]
CODEC = CodecTrainer.create(0, 4).export()


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
    heard = play_on(model, columns, is_free, captions, 5, 0.8)
    is_own = delayed_columns(is_free[:, None].repeat(1, CODEBOOKS, 1).long()) == 1
    assert torch.equal(heard[~is_own], columns[~is_own]) and torch.equal(heard[2], columns[2])
    assert (heard[is_own] != columns[is_own]).float().mean() > 0.9
    assert torch.equal(heard, play_on(model, columns, is_free, captions, 5, 0.8))
    assert not torch.equal(heard, play_on(model, columns, is_free, captions, 6, 0.8))
    likeliest = [play_on(model, columns, is_free, captions, seed, 1e-4) for seed in (5, 6)]
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

    def loss(of: torch.Tensor) -> torch.Tensor:
        columns = delayed_columns(of)
        return returning_loss(logits, Rehearsed(columns, columns, torch.from_numpy(worth(is_free))[None], [""], [20]))

    other = codes.clone()
    other[..., :40] = 0
    assert torch.equal(loss(codes), loss(other))
    for book in range(CODEBOOKS):
        other = codes.clone()
        other[0, book, 40] = (codes[0, book, 40] + 1) % 512
        changed = loss(codes) != loss(other)
        assert changed[book] and changed.sum() == 1


def test_another_piece_may_be_heard_where_the_decoder_does_not_play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FOREIGN", 1.0)
    monkeypatch.setattr(rehearsal, "SHAPES", ((6, 400),))
    monkeypatch.setattr(rehearsal, "CAPTION_DROP", 0.0)
    codes = np.broadcast_to(np.arange(len(PIECES))[:, None, None], (len(PIECES), CODEBOOKS, FRAMES))
    model = load_checkpoint(CHECKPOINT)
    rows = rehearse_rows(model, lessons(codes), np.random.default_rng(0))
    heard, told = rows.heard[:, 0, 1:], rows.columns[:, 0, 1:]
    is_piece = rows.worth > 0
    assert (told == told[:, :1]).all() and torch.equal(heard[is_piece], told[is_piece])
    assert (heard != told).any() and heard.max() < len(PIECES)  # nothing was drawn from the model
    for row, first in enumerate(rows.first):
        assert torch.equal(heard[row, :first], told[row, :first])
        known = rows.begun(200)[row]
        for book in range(CODEBOOKS):
            assert (known[book, first:] == PAD).all() and (known[book, book:first] == told[row, 0]).all()


def test_pieces_come_as_often_as_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    often = {(True, False): 1, (True, True): 1, (False, False): 7, (False, True): 0}
    monkeypatch.setattr(rehearsal, "OFTEN", often)
    monkeypatch.setattr(rehearsal, "SHAPES", ((200, 160),))
    monkeypatch.setattr(rehearsal, "FOREIGN", 1.0)  # nothing is played
    codes = np.broadcast_to(np.arange(len(PIECES))[:, None, None], (len(PIECES), CODEBOOKS, FRAMES))
    rows = rehearse_rows(load_checkpoint(CHECKPOINT), lessons(codes), np.random.default_rng(0))
    counts = np.bincount(rows.columns[:, 0, 1], minlength=len(PIECES))
    kinds = [often[one.style.drums, one.style.dense] for one in PIECES]
    assert counts / 200 == pytest.approx(np.divide(kinds, sum(kinds)), abs=0.1) and 7 in kinds and 0 in kinds


def test_a_decoder_learns_what_comes_back_after_its_own_playing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "RATE", 3e-3)
    monkeypatch.setattr(rehearsal, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(rehearsal, "SHAPES", ((4, 256),))
    codes = np.tile(np.arange(FRAMES) % 5 * 7, (len(PIECES), CODEBOOKS, 1))  # what the piece plays is told by the frame
    known, before, student = lessons(codes), decoder(), decoder()
    kept = {name: value.clone() for name, value in before.model.named_parameters()}
    text = student.model.text_encoder.encoder.embed_tokens.weight.detach().clone()
    rows = rehearse_rows(as_played(student, CODEC, tmp_path / "model"), known, np.random.default_rng(0))
    assert sorted(rows.captions, key=lambda one: one == "") == rows.captions
    assert sum(len(part.captions) for part in rows.parts(np.random.default_rng(0))) == 4

    def returning() -> float:
        with student.averaged():
            return float(returning_loss(student.listened(rows.heard[..., :-1], rows.captions), rows)[0])

    first, told = returning(), []
    for _ in range(2):
        rehearse(
            student, before, CODEC, known, 0.06, tmp_path / "rehearsed.pt",
            total_minutes=1.0, seed=0, report=lambda step, losses: told.append((step, losses[0])),
        )  # fmt: skip
    assert returning() < 0.7 * first
    assert told[-1][0] == student.rehearsed_steps and told[-1][1] < told[0][1]
    assert all(torch.equal(value, kept[name]) for name, value in before.model.named_parameters())
    assert torch.equal(text, student.model.text_encoder.encoder.embed_tokens.weight)
    again = decoder()
    again.load(tmp_path / "rehearsed.pt")
    assert (again.rehearsed_steps, again.distilled_steps) == (student.rehearsed_steps, 0)
