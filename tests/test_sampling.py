"""Sampling: the right distribution, from the right candidates, by draws that depend on nothing but their key."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rfm_live.errors import RfmError
from rfm_live.model.sampling import SamplingSettings, guide, sample


def logits(codebooks: int = 4, vocab: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(codebooks, vocab)).astype(np.float32) * 2


def test_the_same_step_gives_the_same_codes_in_any_order() -> None:
    settings = SamplingSettings(seed=11)
    values = logits()
    forward = [sample(values, settings, step).tolist() for step in range(50)]
    backward = [sample(values, settings, step).tolist() for step in reversed(range(50))]
    assert forward == backward[::-1]
    assert len({tuple(codes) for codes in forward}) > 40


def test_seeds_steps_and_codebooks_draw_apart() -> None:
    flat = np.zeros((4, 2048), dtype=np.float32)
    settings = SamplingSettings(seed=1, top_k=0)
    codes = sample(flat, settings, 0)
    assert len(set(codes.tolist())) == 4
    assert codes.tolist() != sample(flat, settings, 1).tolist()
    assert codes.tolist() != sample(flat, SamplingSettings(seed=2, top_k=0), 0).tolist()


def test_a_code_s_draw_does_not_depend_on_how_many_candidates_there_are() -> None:
    values = logits()
    wide = sample(values, SamplingSettings(top_k=0), 3)
    ranks = (-values).argsort(axis=1).argsort(axis=1)[np.arange(4), wide]
    assert sample(values, SamplingSettings(top_k=int(ranks.max()) + 1), 3).tolist() == wide.tolist()


def test_frequencies_are_those_of_the_softmax_at_the_temperature() -> None:
    values = np.array([[0.0, 1.0, 2.0, -1.0]], dtype=np.float32)
    settings = SamplingSettings(temperature=2.0, top_k=0, seed=5)
    draws = 8000
    counts = np.bincount([int(sample(values, settings, step)[0]) for step in range(draws)], minlength=4)
    weights = np.exp(values[0] / 2)
    expected = draws * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize("top_k", [1, 2, 7, 63, 64, 65, 2048])
def test_only_the_top_k_codes_are_drawn(top_k: int) -> None:
    values = logits(codebooks=2)
    best = [set(row.argsort()[::-1][:top_k].tolist()) for row in values]
    for step in range(200):
        codes = sample(values, SamplingSettings(top_k=top_k, temperature=4.0), step)
        assert all(int(code) in allowed for code, allowed in zip(codes, best, strict=True))


@pytest.mark.parametrize("settings", [SamplingSettings(temperature=0.0), SamplingSettings(top_k=1)])
def test_temperature_zero_and_top_one_take_the_most_likely_code(settings: SamplingSettings) -> None:
    values = logits()
    for step in range(5):
        assert sample(values, settings, step).tolist() == values.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("top_k", "temperature", "top_p"), [(0, 1.0, 0.9), (7, 1.0, 0.5), (0, 3.0, 0.99), (64, 0.5, 0.0)]
)
def test_only_the_nucleus_that_transformers_keeps_is_drawn(top_k: int, temperature: float, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    values = logits(codebooks=2)
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(values))
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    allowed = TopPLogitsWarper(top_p)(None, scores).isfinite().numpy()
    settings = [SamplingSettings(temperature, top_k, seed=seed, top_p=top_p) for seed in range(400)]
    drawn = [sample(values, each, 3) for each in settings]
    assert all(allowed[[0, 1], codes].all() for codes in drawn)
    unlimited = [sample(values, replace(each, top_p=1.0), 3) for each in settings]
    kept = [(codes, free) for codes, free in zip(drawn, unlimited, strict=True) if allowed[[0, 1], free].all()]
    assert kept and all((codes == free).all() for codes, free in kept)  # the nucleus takes nothing that it should keep


def test_guidance_extrapolates_from_the_row_without_text() -> None:
    with_text, without = np.float32([[1.0, 5.0]]), np.float32([[2.0, 1.0]])
    rows = np.stack([with_text, without])
    np.testing.assert_array_equal(guide(rows, 3.0), [[-1.0, 13.0]])
    np.testing.assert_array_equal(guide(rows, 1.0), with_text)
    np.testing.assert_array_equal(guide(rows[:1], 3.0), with_text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"guidance": math.inf},
        {"guidance": 21},
        {"seed": -1},
        {"seed": 1 << 63},
        {"seed": True},
        {"top_p": 1.1},
        {"top_p": -0.1},
    ],
)
def test_settings_outside_their_domain_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(RfmError, match=next(iter(wrong))):
        SamplingSettings(**wrong)  # type: ignore[arg-type]
