"""What is learned from and what is kept back: whole groups, every class on both sides, subsets in balance."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rfm_live.concepts.splits import Split, balanced_subset, hold_out, split_clips
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


@pytest.mark.parametrize(("count", "learned", "held"), [(4, 2, 1), (5, 3, 1), (8, 5, 2), (40, 29, 10)])
def test_a_class_of_one_source_is_held_out_by_time_behind_a_gap(count: int, learned: int, held: int) -> None:
    """Beside a class of three files, which are held out whole."""
    groups = ["x", "x", "y", "y", "z", "z"] + ["long"] * count
    found = split_clips(groups, ["many"] * 6 + ["one"] * count)
    own_train, own_held = found.is_train[6:], found.is_held[6:]
    assert own_train.tolist() == [True] * learned + [False] * (count - learned)
    assert own_held.tolist() == [False] * (count - held) + [True] * held and learned + held + 1 == count
    assert (found.is_held[:6] == hold_out(groups[:6], ["many"] * 6)).all()
    assert (found.is_train[:6] == ~found.is_held[:6]).all()
    assert found.by_time == ("long",) and "one clip after what was learned: 'long'" in found.told()


def test_classes_of_several_sources_are_held_out_as_ever() -> None:
    found = split_clips(GROUPS, CLASSES, 0.3, 2)
    assert (found.is_held == hold_out(GROUPS, CLASSES, 0.3, 2)).all() and (found.is_train == ~found.is_held).all()
    assert found.by_time == () and found.told() == ""


def test_a_source_that_two_classes_share_is_cut_in_each() -> None:
    """Without `both`, class a would have `other` alone: that is cut, too."""
    groups = ["both", "both"] * 4 + ["other"] * 4
    found = split_clips(groups, ["a", "b"] * 4 + ["a"] * 4)
    assert found.by_time == ("both", "other")
    assert np.flatnonzero(found.is_train).tolist() == [0, 1, 2, 3, 8, 9]
    assert np.flatnonzero(found.is_held).tolist() == [6, 7, 11]


def test_one_source_of_too_few_clips_is_refused() -> None:
    expected = "class 'b' has 3 clips of 'z', the only source of a class, expected 2 sources or more, or 4 clips"
    with pytest.raises(ClipError, match=expected):
        split_clips(["x", "y", "z", "z", "z"], ["a", "a", "b", "b", "b"])


def test_many_sources_cut_by_time_are_not_all_named() -> None:
    none = np.zeros(0, np.bool_)
    assert Split(none, none, ("a", "b", "c", "d", "e")).told().endswith("'a', 'b', 'c' and 2 more")


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
