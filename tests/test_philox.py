"""The random numbers are the published Philox, and the uniforms are Triton's."""

import numpy as np
import pytest
import torch
from rfm_kernels.reference import add_steering, combine_directions, philox4x32, philox_uniform


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


# Random123's kat_vectors, philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    drawn = philox4x32(words(*counter), key)  # type: ignore[arg-type]
    assert tuple(int(word[0]) for word in drawn) == expected


def test_the_first_uniform_is_triton_s_mapping_of_the_published_word() -> None:
    # counter 0, key 0 draws 0x6627e8d5, positive as int32, so u = 0x6627e8d5 * 4.6566127342e-10 in float32.
    expected = np.float32(0x6627E8D5) * np.float32(4.6566127342e-10)
    assert philox_uniform(0, np.array([0]))[0] == expected
    # Counter 1, key 0 by the same rule, worked with Python integers.
    word = one_word_by_hand(counter=1, seed=0)
    signed = word - (1 << 32) if word >> 31 else word
    folded = -signed - 1 if signed < 0 else signed
    assert philox_uniform(0, np.array([1]))[0] == np.float32(folded) * np.float32(4.6566127342e-10)


def one_word_by_hand(counter: int, seed: int) -> int:
    """Philox4x32-10 over Python integers, straight from the paper."""
    c = [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[0]


@pytest.mark.parametrize("seed", [0, 42, 1234567890123, (1 << 64) - 1])
def test_wide_seeds_and_offsets_use_both_halves(seed: int) -> None:
    offsets = np.array([0, 1, 4095, (1 << 32) - 1, 1 << 32, (1 << 62) + 12345], dtype=np.int64)
    for offset, uniform in zip(offsets, philox_uniform(seed, offsets), strict=True):
        word = one_word_by_hand(int(offset), seed)
        signed = word - (1 << 32) if word >> 31 else word
        assert uniform == np.float32(-signed - 1 if signed < 0 else signed) * np.float32(4.6566127342e-10)


def test_uniforms_lie_in_the_unit_interval_and_are_even() -> None:
    drawn = philox_uniform(7, np.arange(40_000))
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001


def test_the_shape_of_the_offsets_is_kept() -> None:
    offsets = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(philox_uniform(3, offsets).ravel(), philox_uniform(3, offsets.ravel()))


@pytest.mark.parametrize(("rows", "concepts", "layers", "width"), [((), 1, 1, 8), ((), 7, 3, 1000), ((5,), 2, 4, 33)])
def test_combined_directions_are_the_written_out_sum(
    rows: tuple[int, ...], concepts: int, layers: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(*rows, concepts, layers, generator=generator)
    directions = torch.randn(concepts, layers, width, generator=generator)
    expected = torch.zeros(*rows, layers, width)
    for concept in range(concepts):
        expected += coefficients[..., concept, :, None] * directions[concept]
    torch.testing.assert_close(combine_directions(coefficients, directions), expected)


def test_no_concepts_combine_to_zero() -> None:
    assert combine_directions(torch.zeros(0, 3), torch.zeros(0, 3, 5)).equal(torch.zeros(3, 5))


def test_steering_is_added_to_every_frame_of_its_row() -> None:
    hidden = torch.zeros(2, 3, 4)
    rows = torch.tensor([[1.0] * 4, [2.0] * 4])
    assert add_steering(hidden, rows)[:, :, 0].tolist() == [[1.0] * 3, [2.0] * 3]
    assert add_steering(hidden[:, 0], rows[0]).tolist() == [[1.0] * 4] * 2
