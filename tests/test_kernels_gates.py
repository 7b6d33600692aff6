"""The gates: one draw in numpy, torch and Triton, and the rule of the steering plan."""

from types import ModuleType

import numpy as np
import pytest
import torch
from rfm_kernels import plain
from rfm_kernels.buffers import GateSettings
from rfm_kernels.reference import philox_uniform

from rfm_live.steering.plan import SteeringPlan
from tests.kernel_cases import DEVICES
from tests.test_bank import some_bank

triton = pytest.importorskip("triton", reason="needs the package triton")
import triton.language as tl  # noqa: E402
from rfm_kernels import fused  # noqa: E402

KERNELS = pytest.mark.parametrize("kernels", [plain, fused], ids=["plain", "fused"])
SEEDS = [0, 42, 1234567890123, (1 << 63) - 1]
OFFSETS = [0, 1, 4095, (1 << 32) - 1, 1 << 32, (1 << 40) + 77, (1 << 62) + 12345]


@triton.jit
def draw_uniform(seed, offsets, uniform):
    lane = tl.arange(0, 8)
    tl.store(uniform + lane, tl.rand(tl.load(seed), tl.load(offsets + lane)))


def gates(
    kernels: ModuleType,
    device: str,
    probability: list[list[float]],
    period: list[list[int]],
    seed: list[int],
    step: int,
) -> list[list[float]]:
    settings = GateSettings(
        torch.tensor(probability, device=device),
        torch.tensor(period, dtype=torch.int32, device=device),
        torch.tensor(seed, device=device),
    )
    gate = torch.full(settings.probability.shape, torch.nan, device=device)
    kernels.draw_gates(settings, torch.tensor([step], device=device), gate)
    return gate.tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_numpy_torch_and_triton_draw_the_same_bits(device: str, seed: int) -> None:
    rng = np.random.default_rng(0)
    for offsets in (np.array([*OFFSETS, 5]), *rng.integers(0, 1 << 63, (4, 8))):
        expected = philox_uniform(seed, offsets)
        held = torch.from_numpy(offsets).to(device)
        by_torch = plain.philox_uniform(torch.tensor(seed, device=device), held)
        by_triton = torch.empty(8, device=device)
        draw_uniform[(1,)](torch.tensor([seed], device=device), held, by_triton, enable_fp_fusion=False)
        np.testing.assert_array_equal(by_torch.cpu().numpy(), expected)
        np.testing.assert_array_equal(by_triton.cpu().numpy(), expected)


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_gates_are_those_of_the_steering_plan(kernels: ModuleType, device: str, seed: int) -> None:
    bank = some_bank(7)
    chances, periods = [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0], [1, 1, 1, 1, 1, 3, 2]
    plan = SteeringPlan(bank, seed)
    for name, chance, period in zip(bank.names, chances, periods, strict=True):
        for field, value in (("gate", chance), ("period", period), ("slew", 0), ("eta", 0.5)):
            plan.set(name, field, value)
    for frame in (0, 1, 2, 3, 4, 5, 6, 12345, 1 << 33):
        coefficients = plan.coefficients(frame)
        assert coefficients is not None
        drawn = gates(kernels, device, [chances] * 2, [periods] * 2, [seed, seed], frame)
        assert drawn == [coefficients.any(axis=1).astype(float).tolist()] * 2  # both rows of a guided stream


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("concepts", [0, 1, 64])
def test_any_count_of_concepts_is_drawn_and_seeds_draw_apart(kernels: ModuleType, device: str, concepts: int) -> None:
    drawn = gates(kernels, device, [[0.5] * concepts] * 2, [[1] * concepts] * 2, [1, 2], 9)
    expected = [(philox_uniform(seed, plain.GATE_DRAWS + (9 << 16) + np.arange(concepts)) < 0.5) for seed in (1, 2)]
    assert drawn == [row.astype(float).tolist() for row in expected]
    assert concepts < 64 or drawn[0] != drawn[1]


@KERNELS
def test_a_probability_of_float64_is_exact_when_it_is_rounded_up(kernels: ModuleType) -> None:
    """A draw that equals float32(p) < p is below p in float64, and is below the next float32."""
    draws = philox_uniform(0, plain.GATE_DRAWS + np.arange(1))
    chance = float(draws[0]) + 1e-12
    assert np.float64(draws[0]) < chance and np.float32(chance) == draws[0]
    up = float(np.nextafter(np.float32(chance), np.float32(1)))
    assert gates(kernels, "cpu", [[up]], [[1]], [0], 0) == [[1.0]]
    assert gates(kernels, "cpu", [[float(draws[0])]], [[1]], [0], 0) == [[0.0]]


def test_parts_that_contradict_each_other_are_refused_by_name() -> None:
    chance, period, seed = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^period is \(2, 2\), expected \(2, 3\)$"):
        GateSettings(chance, period[:, :2], seed)
    with pytest.raises(ValueError, match=r"^seed is torch.int32"):
        GateSettings(chance, period, seed.int())
    with pytest.raises(ValueError, match=r"^probability is \(2, 65\)"):
        GateSettings(torch.ones(2, 65), torch.ones(2, 65, dtype=torch.int32), seed)
    for kernels in (plain, fused):
        with pytest.raises(ValueError, match=r"^step is \(\), expected \(1,\)$"):
            kernels.draw_gates(GateSettings(chance, period, seed), torch.tensor(3), torch.empty(2, 3))
