"""The decoder learns from takes: the better ones become likelier, and without pushes it stays what it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EncodecModel, MusicgenForConditionalGeneration

from rfm_live.concepts.meters import Samples
from rfm_live.concepts.sound_classifiers import SoundClassifiers
from rfm_live.embedded import CHECKPOINT, takes
from rfm_live.embedded.codec_training import CODEBOOKS
from rfm_live.embedded.composer import INSTRUMENTS, Style, draw_style
from rfm_live.embedded.decoder_lessons import delayed_columns
from rfm_live.embedded.decoder_training import DecoderTrainer
from rfm_live.embedded.leads import Pushes, led_concepts
from rfm_live.embedded.music_meters import full_caption
from rfm_live.embedded.take_scores import (
    OF_CONCEPT,
    OF_PROMPT,
    TakeJudge,
    Wish,
    chord_share,
    mode_share,
    note_share,
    stft_chroma,
)
from rfm_live.embedded.takes import (
    COMPARED,
    MOST,
    TAKES,
    Comparison,
    compared_loss,
    counts,
    draw_wish,
    play_takes,
    play_unpushed,
)
from rfm_live.embedded.text_parts import build_tokenizer

CODEC: EncodecModel = MusicgenForConditionalGeneration.from_pretrained(CHECKPOINT).audio_encoder
STYLE: Style = draw_style(np.random.default_rng(0))


def decoder() -> DecoderTrainer:
    captions = [full_caption(draw_style(np.random.default_rng(seed))) for seed in range(40)]
    return DecoderTrainer.create(build_tokenizer(captions), 1, 1, 64, 12)


def chord(*steps: int, seconds: float = 1.0) -> Samples:
    """Sines of MIDI pitches 60 + `steps` with a few partials."""
    time = np.arange(round(seconds * 32_000)) / 32_000
    pitches = [440.0 * 2 ** ((60 + step - 69) / 12) for step in steps]
    return np.sum(
        [0.1 / partial * np.sin(2 * np.pi * partial * pitch * time) for pitch in pitches for partial in (1, 2)], axis=0
    ).astype(np.float32)


def test_chroma_tells_notes_chords_and_modes() -> None:
    assert note_share(stft_chroma(chord(7)), 7) == 1.0 and note_share(stft_chroma(chord(7)), 6) == 0.0
    triads = {"major": (2, 6, 9), "minor": (2, 5, 9), "diminished": (2, 5, 8), "augmented": (2, 6, 10)}
    for quality, steps in triads.items():
        heard = {name: chord_share(stft_chroma(chord(*steps)), name) for name in triads}
        assert max(heard, key=lambda name: heard[name]) == quality and heard[quality] > 0.6
    minor, major = (
        np.concatenate([chord(step) for step in scale]) for scale in ((0, 2, 3, 7, 8, 0), (0, 2, 4, 7, 9, 0))
    )
    assert mode_share(stft_chroma(minor), "minor") > 0.6 > 0.5 > mode_share(stft_chroma(minor), "major")
    assert mode_share(stft_chroma(major), "major") > 0.6


class Ears:
    """Stands in for fitted classifiers: everything is heard as likely as `told` says."""

    def __init__(self, told: dict[str, dict[str, float]]) -> None:
        self._told = told

    def likelihoods(self, name: str, table: np.ndarray) -> dict[str, np.ndarray]:
        return {said: np.full(len(table), share) for said, share in self._told[name].items()}


def test_a_score_is_what_is_heard_of_the_pushes_and_of_what_else_the_prompt_asks() -> None:
    drums = "drums" if STYLE.drums else "none"
    family, other = STYLE.instrument.family, next(
        one.family for one in INSTRUMENTS if one.family != STYLE.instrument.family
    )  # fmt: skip
    ears = Ears({"family": {family: 0.5, other: 0.25}, "drums": {"drums": 0.0, "none": 0.0} | {drums: 0.8}})
    judge = TakeJudge(ears)  # type: ignore[arg-type]
    clip = chord(4, seconds=4.0)
    wishes = [Wish(STYLE, shares) for shares in ({"note_e": 2.0}, {"note_f": 2.0}, {f"timbre_{other}": 1.0})]
    kept = OF_PROMPT["drums"] * 0.8
    expected = [
        OF_CONCEPT["note"] + OF_PROMPT["family"] * 0.5 + kept,
        OF_PROMPT["family"] * 0.5 + kept,
        OF_CONCEPT["timbre"] * 0.25 + kept,
    ]
    assert judge.scores([clip] * 3, wishes) == pytest.approx(expected, abs=1e-6)
    assert judge.scores([0 * clip], wishes[2:]) == pytest.approx([expected[2] - 1.0], abs=1e-6)


def test_likelihoods_go_with_what_is_heard() -> None:
    rng = np.random.default_rng(0)
    table, labels = rng.normal(size=(60, 4)).astype(np.float32), [{"height": "low"}, {"height": "high"}] * 30
    table[1::2, 2] += 4.0
    fitted = SoundClassifiers.fit_in(table, labels, {"height": ["a", "b", "c", "b"] * 15})
    likely = fitted.likelihoods("height", table)
    assert set(likely) == {"low", "high"}
    np.testing.assert_allclose(likely["low"] + likely["high"], 1.0, atol=1e-6)
    heard = [said["height"] == "high" for said in fitted.heard_in(table)]
    assert np.mean((likely["high"] > 0.5) == heard) > 0.9  # what is likeliest of the parts need not be so of the whole


def test_only_the_best_and_the_worst_takes_count() -> None:
    scores = np.random.default_rng(3).normal(size=(5, TAKES))
    counted = counts(scores)
    assert ((counted != 0).sum(axis=1) == 2 * COMPARED).all() and np.abs(counted).max() <= MOST
    for row, found in zip(scores, counted, strict=True):
        order = row.argsort()
        assert (found[order[:COMPARED]] < 0).all() and (found[order[-COMPARED:]] > 0).all()
    assert (counts(np.ones((2, TAKES))) == 0).all()  # nothing is learned where all came out alike


def test_wishes_ask_for_what_the_style_lacks() -> None:
    kinds = set()
    for seed in range(300):
        wish = draw_wish(np.random.default_rng(seed))
        assert set(wish.shares) <= set(led_concepts()) and 1 <= len(wish.shares) <= 2
        kinds |= {name.split("_")[0] for name in wish.shares}
        assert f"timbre_{wish.style.instrument.family}" not in wish.shares
        assert not ("drums" in wish.shares and wish.style.drums)
    assert kinds == set(OF_CONCEPT)


def test_what_counts_becomes_likelier_and_the_other_less_likely() -> None:
    trainer = decoder()
    columns = delayed_columns(torch.from_numpy(np.random.default_rng(1).integers(0, 512, (2, CODEBOOKS, 40))))
    counted, optimiser = np.array([1.0, -1.0]), torch.optim.SGD(trainer.model.decoder.parameters(), lr=0.1)

    def told() -> np.ndarray:
        """Nats per code of each of both takes."""
        logits = trainer.logits(columns[..., :-1], ["", ""])
        each = [compared_loss(logits[row : row + 1], columns[row : row + 1], np.ones(1)).sum() for row in range(2)]
        return np.array([float(one.detach()) for one in each])

    trainer.model.eval()
    first = told()
    for _ in range(5):
        optimiser.zero_grad()
        torch.autograd.backward(compared_loss(trainer.logits(columns[..., :-1], ["", ""]), columns, counted).sum())
        optimiser.step()
    better, worse = told() - first
    assert better < -0.01 and worse > 0.01


class LikesLoudness:
    """A judge for whom louder is better."""

    def scores(self, clips: list[Samples], wishes: list[Wish]) -> np.ndarray:
        assert len(clips) == len(wishes) and all(len(clip) == (takes.FRAMES - 20) * 640 for clip in clips)
        return np.array([float(np.sqrt(np.mean(np.square(clip)))) for clip in clips]) * 100


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WISHES": 2,
        "FRAMES": 60,
        "SETTLE_SECONDS": 0.4,
        "UNPUSHED": 10,
        "UNPUSHED_FRAMES": 48,
    }.items():
        monkeypatch.setattr(takes, name, value)


def test_takes_of_a_wish_are_played_alike_and_judged(tmp_path: Path, few: None) -> None:
    pushes = Pushes.drawn(len(led_concepts()), torch.ones(1), 64, 0)
    played = play_takes(
        decoder(), CODEC, pushes, led_concepts(), LikesLoudness(), np.random.default_rng(0), tmp_path / "playing"  # type: ignore[arg-type]
    )  # fmt: skip
    count = 2 * 2 * COMPARED
    assert played.columns.shape == (count, CODEBOOKS, takes.FRAMES + CODEBOOKS + 1) and len(played.captions) == count
    for half in (slice(count // 2), slice(count // 2, None)):
        assert len(set(played.captions[half])) == 1 and (played.pushes[half] == played.pushes[half][0]).all()
        assert (played.counts[half] > 0).sum() == (played.counts[half] < 0).sum() == COMPARED
    assert sorted(np.concatenate(played.parts(np.random.default_rng(0)))) == list(range(count))
    assert (played.pushes.norm(dim=-1) > 0).all()


def test_a_decoder_compares_its_takes_and_goes_on_where_it_was(tmp_path: Path, few: None) -> None:
    before, student = decoder(), decoder()
    kept = {name: before.model.get_parameter(name).detach().clone() for name in before.average}
    text = student.model.text_encoder.encoder.embed_tokens.weight.detach().clone()
    pushes, told = Pushes.drawn(len(led_concepts()), torch.ones(1), 64, 0), list[tuple[int, float]]()
    began = pushes.unit()
    for _ in range(2):
        comparison = Comparison(
            student, before, CODEC, pushes, led_concepts(), LikesLoudness(), tmp_path / "playing"  # type: ignore[arg-type]
        )  # fmt: skip
        comparison.run(
            0.01,
            tmp_path / "compared.pt",
            total_minutes=1.0,
            seed=0,
            report=lambda step, gone: told.append((step, gone)),
        )
    assert [step for step, _ in told] == list(range(1, len(told) + 1)) and told[0][1] == pytest.approx(0.0, abs=1e-6)
    assert 0 < told[-1][1] < 0.5
    assert all(torch.equal(before.model.get_parameter(name), value) for name, value in kept.items())
    assert torch.equal(text, student.model.text_encoder.encoder.embed_tokens.weight)
    assert torch.equal(pushes.unit(), began)
    again = decoder()
    again.load(tmp_path / "compared.pt")
    assert again.compared_steps == student.compared_steps == len(told) and again.compared_seconds > 0
    again.return_to(before, 0.25)
    for name, value in again.average.items():
        torch.testing.assert_close(value, 0.25 * student.average[name] + 0.75 * before.average[name])


def test_far_from_what_it_was_a_decoder_comes_back(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takes, "KEEPING_UNPUSHED", 10.0)
    before, student = decoder(), decoder()
    with torch.no_grad():
        for head in student.model.decoder.lm_heads:
            head.weight += 0.05 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    pushes = Pushes.drawn(len(led_concepts()), torch.ones(1), 64, 0)
    likes = LikesLoudness()
    comparison = Comparison(student, before, CODEC, pushes, led_concepts(), likes, tmp_path / "playing")  # type: ignore[arg-type]
    student.model.eval()
    with before.averaged():
        heard, told = play_unpushed(before, CODEC, np.random.default_rng(0), tmp_path / "playing")
        assert told == sorted(told, key=lambda text: text == "") and "" in told and len(heard) == len(told) == 10
        gone = [comparison.step(np.random.default_rng(step), heard, told, 2e-3) for step in range(8)]
    assert gone[-1] < 0.7 * gone[0]
