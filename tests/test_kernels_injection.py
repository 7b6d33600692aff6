"""Residual add, injection and LayerNorm in one pass: the formulas, the precision, and what must not change a bit."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from rfm_kernels import plain
from rfm_kernels.buffers import Injection
from rfm_kernels.reference import Mode
from torch import Tensor, nn

from tests.kernel_cases import (
    DEVICES,
    at_layer,
    exact_norm,
    exact_stream,
    moved,
    random_injection,
    random_rows,
    torch_s_own,
)

pytest.importorskip("triton", reason="needs the package triton")
from rfm_kernels import fused

KERNELS = pytest.mark.parametrize("kernels", [plain, fused], ids=["plain", "fused"])


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def run(
    kernels: ModuleType, device: str, rows: tuple[Tensor, Tensor, nn.LayerNorm], injection: Injection, layer: int
) -> tuple[Tensor, Tensor]:
    hidden, contribution, norm = rows
    held = nn.LayerNorm(hidden.shape[1], dtype=hidden.dtype, device=device).requires_grad_(False)
    held.load_state_dict(norm.state_dict())
    stream, normed = kernels.add_inject_norm(
        hidden.to(device), contribution.to(device), held, moved(injection, device), at_layer(layer, device)
    )
    return stream.cpu(), normed.cpu()


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("width", [64, 256, 1000, 1024])
@pytest.mark.parametrize("concepts", [0, 1, 7, 64])
def test_the_error_is_at_most_twice_torch_s_own(
    kernels: ModuleType, device: str, dtype: torch.dtype, width: int, concepts: int
) -> None:
    rows = hidden, contribution, norm = random_rows(3, width, dtype)
    injection = random_injection(3, concepts, width, dtype)
    exact = exact_stream(hidden, contribution, injection, 2)
    wanted = exact, exact_norm(exact, norm)
    own = torch_s_own(hidden, contribution, norm, injection, 2)
    for ours, theirs, truth in zip(run(kernels, device, rows, injection, 2), own, wanted, strict=True):
        assert ours.dtype == dtype
        assert np.abs(ours.double().numpy() - truth).max() <= 2 * np.abs(theirs.double().numpy() - truth).max()


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("width", "concepts"), [(64, 7), (1000, 1), (1024, 0)])
def test_bf16_is_within_its_last_place(kernels: ModuleType, device: str, width: int, concepts: int) -> None:
    """Triton's interpreter truncates to bf16 where everything else rounds: one last place, 2**-7 of the value."""
    rows = hidden, contribution, norm = random_rows(3, width, torch.bfloat16)
    injection = random_injection(3, concepts, width, torch.bfloat16)
    stream, normed = (out.double().numpy() for out in run(kernels, device, rows, injection, 1))
    np.testing.assert_allclose(stream, exact_stream(hidden, contribution, injection, 1), rtol=2**-7, atol=1e-5)
    np.testing.assert_allclose(normed, exact_norm(stream, norm), rtol=2**-7, atol=1e-5)


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("closed", ["eta", "gate", "layer_weights"])
@pytest.mark.parametrize("mode", list(Mode))
def test_what_has_no_strength_does_not_change_a_bit(
    kernels: ModuleType, device: str, dtype: torch.dtype, closed: str, mode: Mode
) -> None:
    """Not even where the directions hold no numbers: places for concepts that are not loaded yet."""
    rows = hidden, contribution, norm = random_rows(2, 100, dtype)
    hidden[0, :2], contribution[0, :2] = -0.0, -0.0
    injection = random_injection(2, 5, 100, dtype)
    injection.mode.fill_(mode)
    getattr(injection, closed).zero_()
    injection.directions.fill_(torch.nan)
    injection.target.fill_(torch.nan)
    steered = run(kernels, device, rows, injection, 0)
    bare = run(kernels, device, rows, random_injection(2, 0, 100, dtype), 0)
    for ours, theirs in zip(steered, bare, strict=True):
        assert bits(ours).equal(bits(theirs))
    if kernels is plain:
        assert bits(bare[1]).equal(bits(norm(hidden + contribution))) or device == "cuda"
    if dtype != torch.bfloat16 or kernels is plain or device == "cuda":
        assert bits(bare[0]).equal(bits(hidden + contribution))


@KERNELS
@pytest.mark.parametrize("device", DEVICES)
def test_a_row_is_steered_by_its_own_values_only(kernels: ModuleType, device: str) -> None:
    """Two guided performers: both rows of the first, the row with text of the second."""
    rows = hidden, contribution, norm = random_rows(4, 65, torch.float32)
    injection = random_injection(4, 7, 65, torch.float32)
    injection.gate.fill_(1.0)
    injection.eta[3] = 0.0
    together = run(kernels, device, rows, injection, 1)
    for row in range(4):
        each = slice(row, row + 1)
        one = replace(
            injection,
            **{name: getattr(injection, name)[each].contiguous() for name in ("eta", "gate", "mode", "target")},
        )
        alone = run(kernels, device, (hidden[each], contribution[each], norm), one, 1)
        for all_rows, single in zip(together, alone, strict=True):
            torch.testing.assert_close(all_rows[each], single, rtol=1e-6, atol=1e-6)
    assert together[0][3].equal(hidden[3] + contribution[3])
    assert not together[0][2].equal(hidden[2] + contribution[2])


# By hand, for h = (3, 4) as the sum of (1, 4) and (2, 0), and |h| = 5.
@KERNELS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("mode", "strength", "direction", "expected"),
    [
        (Mode.ADD, 0.5, (0.0, 1.0), (3.0, 4.5)),
        (Mode.ADD, -2.0, (1.0, 0.0), (1.0, 4.0)),
        (Mode.BLEND, 1.0, (1.0, 0.0), (4.0, 2.0)),  # (3 + 5) / 2, 4 / 2
        (Mode.BLEND, -1.0, (1.0, 0.0), (-1.0, 2.0)),  # (3 - 5) / 2, 4 / 2
        (Mode.CLAMP, 1.0, (0.0, 1.0), (3.0, 1.0)),  # the projection 4 becomes the target 1
        (Mode.CLAMP, 0.5, (0.0, 1.0), (3.0, 2.5)),  # half way there
    ],
)
def test_each_mode_does_what_its_formula_says(
    kernels: ModuleType,
    device: str,
    mode: Mode,
    strength: float,
    direction: tuple[float, float],
    expected: tuple[float, float],
) -> None:
    injection = Injection(
        eta=torch.tensor([[strength * 2]]),
        gate=torch.tensor([[0.5]]),
        mode=torch.tensor([[int(mode)]], dtype=torch.int32),
        target=torch.tensor([[[7.0], [1.0]]]),
        layer_weights=torch.tensor([[0.0], [1.0]]),
        directions=torch.tensor([[[0.0, 0.0]], [list(direction)]]),
    )
    rows = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 0.0]]), nn.LayerNorm(2).requires_grad_(False)
    stream, normed = run(kernels, device, rows, injection, 1)
    assert stream.tolist() == [list(expected)]
    sign = 1.0 if expected[0] > expected[1] else -1.0
    torch.testing.assert_close(normed, torch.tensor([[sign, -sign]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_turned_knob_is_a_write_into_a_buffer(device: str) -> None:
    """On a GPU nothing is compiled for it, and nothing for another bank, count of concepts or layer either."""
    hidden, contribution, norm = random_rows(2, 64, torch.float16)
    rows = hidden.to(device), contribution.to(device), norm.to(device)
    injection, layer = moved(random_injection(2, 16, 64, torch.float16), device), at_layer(0, device)
    before = fused.add_inject_norm(*rows, injection, layer)[0]
    caches = getattr(fused.triton_kernels.add_inject_norm, "device_caches", {})
    compiled = {key: len(cache[0]) for key, cache in caches.items()}
    injection.eta.mul_(-1)
    injection.gate.fill_(1)
    injection.mode.fill_(Mode.BLEND)
    layer.fill_(2)
    after = fused.add_inject_norm(*rows, injection, layer)[0]
    fresh = moved(replace(injection, directions=injection.directions.clone()), device)
    assert after.equal(fused.add_inject_norm(*rows, fresh, at_layer(2, device))[0])
    assert not after.equal(before)
    layers = torch.arange(3, dtype=torch.int32, device=device)
    for concepts in (0, 1, 7, 64):
        bank = moved(random_injection(2, concepts, 64, torch.float16), device)
        fused.add_inject_norm(*rows, bank, layers[1:2])
    assert {key: len(cache[0]) for key, cache in caches.items()} == compiled


def test_parts_that_contradict_each_other_are_refused_by_name() -> None:
    good = random_injection(2, 7, 16, torch.float32)
    with pytest.raises(ValueError, match=r"^gate is \(2, 6\), expected \(2, 7\)$"):
        replace(good, gate=torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"^mode is torch.int64, expected torch.int32$"):
        replace(good, mode=good.mode.long())
    with pytest.raises(ValueError, match="directions has strides"):
        replace(good, directions=good.directions.transpose(0, 1).contiguous().transpose(0, 1))
    with pytest.raises(ValueError, match=r"^eta holds 65 concepts, expected 0..64$"):
        random_injection(2, 65, 16, torch.float32)
    with pytest.raises(ValueError, match=r"expected \[B, C\] and \[L, C, D\]$"):
        replace(good, eta=torch.ones(7))
    hidden, contribution, norm = random_rows(2, 16, torch.float32)
    for kernels in (plain, fused):
        with pytest.raises(ValueError, match=r"^hidden is \(1, 16\), expected \(2, 16\)$"):
            kernels.add_inject_norm(hidden[:1], contribution, norm, good, at_layer(0))
        with pytest.raises(ValueError, match=r"^contribution is torch.float16"):
            kernels.add_inject_norm(hidden, contribution.half(), norm, good, at_layer(0))
        with pytest.raises(ValueError, match=r"^layer is \(\), expected \(1,\)$"):
            kernels.add_inject_norm(hidden, contribution, norm, good, torch.tensor(0, dtype=torch.int32))
