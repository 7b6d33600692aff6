"""The sampling kernel draws the codes that rfm_live.model.sampling draws, from the same counters."""

from types import ModuleType

import numpy as np
import pytest
import torch
from rfm_kernels import plain
from rfm_kernels.buffers import SamplingBuffers

from rfm_live.model.sampling import SamplingSettings, guide, sample
from tests.kernel_cases import DEVICES

pytest.importorskip("triton", reason="needs the package triton")
from rfm_kernels import fused

KERNELS = pytest.mark.parametrize("kernels", [plain, fused], ids=["plain", "fused"])


def random_logits(halves: int, streams: int, codebooks: int, vocab: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(halves, streams, codebooks, vocab)).astype(np.float32) * 2


def buffers(settings: list[SamplingSettings], device: str = "cpu") -> SamplingBuffers:
    return SamplingBuffers(
        torch.tensor([float(each.temperature) for each in settings], device=device),
        torch.tensor([float(each.guidance) for each in settings], device=device),
        torch.tensor([each.top_k for each in settings], dtype=torch.int32, device=device),
        torch.tensor([float(each.top_p) for each in settings], device=device),
        torch.tensor([each.seed for each in settings], device=device),
    )


def drawn(
    kernels: ModuleType, logits: np.ndarray, settings: list[SamplingSettings], step: int, device: str = "cpu"
) -> list[list[int]]:
    held = torch.from_numpy(logits).to(device)
    codes: list[list[int]] = kernels.sample_codes(
        held, buffers(settings, device), torch.tensor([step], device=device)
    ).tolist()
    return codes


def expected(logits: np.ndarray, settings: list[SamplingSettings], step: int) -> list[list[int]]:
    return [sample(guide(logits[:, n], each.guidance), each, step).tolist() for n, each in enumerate(settings)]


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("vocab", [1, 64, 1000, 2048])
def test_codes_are_those_of_the_engine_s_sampling(kernels: ModuleType, device: str, halves: int, vocab: int) -> None:
    """Streams of different settings in one launch: every performer has knobs of their own."""
    settings = [
        SamplingSettings(),
        SamplingSettings(temperature=0.7, top_k=0, guidance=1.0, seed=1 << 40),
        SamplingSettings(temperature=1.3, top_k=7, top_p=0.9, seed=(1 << 63) - 1),
        SamplingSettings(temperature=0.0, top_k=3, top_p=0.1),
    ]
    logits = random_logits(halves, len(settings), 2, vocab)
    for step in (0, 1 << 30):
        assert drawn(kernels, logits, settings, step, device) == expected(logits, settings, step)


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("top_k", [0, 2, 63, 65])
@pytest.mark.parametrize("top_p", [1.0, 0.6, 0.0])
def test_candidates_are_those_of_the_engine_s_sampling(
    kernels: ModuleType, device: str, top_k: int, top_p: float
) -> None:
    """Temperature 4 makes nearly every candidate likely, so a wrong bound shows. One launch draws for 8 seeds."""
    settings = [SamplingSettings(4.0, top_k, 1.0, seed, top_p) for seed in range(8)]
    logits = np.repeat(random_logits(1, 1, 1, 64, seed=3), 8, axis=1)
    assert drawn(kernels, logits, settings, 5, device) == expected(logits, settings, 5)


def test_the_plain_kernel_draws_four_thousand_codes_as_the_engine_does() -> None:
    settings = [SamplingSettings(top_p=top_p, seed=seed) for seed in range(10) for top_p in (1.0, 0.8)]
    logits = random_logits(2, len(settings), 4, 512)
    for step in range(50):
        assert drawn(plain, logits, settings, step) == expected(logits, settings, step)


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
def test_codes_that_tie_at_the_bound_are_all_candidates(kernels: ModuleType, device: str) -> None:
    """By hand: the two largest tie with a third, signed zeros tie with each other, and -inf is never drawn."""
    logits = np.float32([[[[1.0, 2.0, 1.0, -1.0]]], [[[0.0, -0.0, -np.inf, -3.0]]]]).reshape(1, 2, 1, 4)
    codes = [set(), set()]
    for seed in range(12):
        both = [SamplingSettings(4.0, top_k, 1.0, seed) for top_k in (2, 1)]
        for seen, row in zip(codes, drawn(kernels, logits, both, 1, device), strict=True):
            seen.update(row)
    assert codes == [{0, 1, 2}, {0, 1}]


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
def test_temperature_zero_takes_the_first_of_the_largest(kernels: ModuleType, device: str) -> None:
    logits = np.float32([1, 5, 2, 5]).reshape(1, 1, 1, 4)
    assert drawn(kernels, logits, [SamplingSettings(temperature=0.0)], 7, device) == [[1]]


def test_parts_that_contradict_each_other_are_refused_by_name() -> None:
    good = buffers([SamplingSettings()] * 2)
    with pytest.raises(ValueError, match=r"^top_k is torch.int64, expected torch.int32$"):
        SamplingBuffers(good.temperature, good.guidance, good.top_k.long(), good.top_p, good.seed)
    for kernels in (plain, fused):
        with pytest.raises(ValueError, match=r"^logits are \(3, 2, 4, 8\), expected \[1 or 2, N"):
            kernels.sample_codes(torch.zeros(3, 2, 4, 8), good, torch.tensor([0]))
        with pytest.raises(ValueError, match=r"^logits is \(2, 1, 4, 8\), expected \(2, 2, 4, 8\)$"):
            kernels.sample_codes(torch.zeros(2, 1, 4, 8), good, torch.tensor([0]))
