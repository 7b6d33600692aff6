"""What is learned from and what is kept back: whole groups, every class on both sides, subsets in balance."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rfm_live.concepts.splits import balanced_subset, hold_out
from rfm_live.errors import ClipError

CLASSES = [f"class{index % 3}" for index in range(180)]
GROUPS = [f"group{index // 3 % 12}" for index in range(180)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_groups_are_held_out_whole_and_every_class_is_on_both_sides(share: float, seed: int) -> None:
    held = hold_out(GROUPS, CLASSES, share, seed)
    for group in set(GROUPS):
        assert len({bool(held[index]) for index, name in enumerate(GROUPS) if name == group}) == 1
    for name in set(CLASSES):
        own = held[[label == name for label in CLASSES]]
        assert own.mean() == pytest.approx(share, abs=1 / 12) and 0 < own.sum() < len(own)


def test_files_of_one_class_each_are_held_out_of_every_class() -> None:
    """Two folders: 8 files with, 5 without."""
    groups, classes = [f"file{index}" for index in range(13)], [index < 8 for index in range(13)]
    held = hold_out(groups, classes)
    assert held[:8].sum() == 2 and held[8:].sum() == 1
    assert (hold_out(groups, classes) == held).all() and (hold_out(groups, classes, seed=3) != held).any()


def test_unequal_groups_still_leave_every_class_on_both_sides() -> None:
    groups = ["big"] * 50 + ["small"] * 2 + ["other"] * 3 + ["last"] * 4
    classes = ["a"] * 50 + ["a"] * 2 + ["b"] * 3 + ["b"] * 4
    held = hold_out(groups, classes, 0.1)
    assert Counter(np.asarray(groups)[held]) == {"small": 2, "other": 3}


def test_a_class_of_one_source_cannot_be_judged() -> None:
    with pytest.raises(ClipError, match="class 'b' comes from 'z' alone, expected 2 sources or more"):
        hold_out(["x", "y", "z", "z"], ["a", "a", "b", "b"])


def test_a_subset_is_balanced_over_classes_and_groups() -> None:
    for count in (3, 12, 36, 100, 180):
        chosen = balanced_subset(CLASSES, GROUPS, count)
        assert len(set(chosen)) == count and chosen == sorted(chosen)
        by_class = Counter(CLASSES[index] for index in chosen)
        by_pair = Counter((CLASSES[index], GROUPS[index]) for index in chosen)
        assert max(by_class.values()) - min(by_class.values()) <= 1
        assert max(by_pair.values()) - min(by_pair.get(pair, 0) for pair in set(zip(CLASSES, GROUPS, strict=True))) <= 1
    assert len({GROUPS[index] for index in balanced_subset(CLASSES, GROUPS, 12)}) >= 6


def test_a_larger_subset_keeps_the_smaller_one() -> None:
    chosen = [set(balanced_subset(CLASSES, GROUPS, count)) for count in range(1, 181)]
    assert all(small < large for small, large in itertools.pairwise(chosen))


@pytest.mark.parametrize(("count", "message"), [(0, "subset is 0, expected 1..180"), (181, "subset is 181")])
def test_an_impossible_subset_is_refused(count: int, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        balanced_subset(CLASSES, GROUPS, count)
    with pytest.raises(ClipError, match="subset of 4 needs 2 clips of class 'b', which has 1"):
        balanced_subset(["a", "a", "a", "b"], ["x"] * 4, 4)
