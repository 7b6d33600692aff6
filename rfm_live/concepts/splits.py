"""Which clips are learned from, and which are kept back to judge by. Deterministic. Used by concept learning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfm_live.errors import ClipError

LEAST_ALONE = 4
"""Clips that a class's only source must give to be held out by time: two to learn from, a gap, one to judge by."""
_TOLD_SOURCES = 3

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Which of N clips are learned from, `is_train` [N], and which are kept back to judge by, `is_held` [N].

    A clip in neither is the gap between the two parts of a source in `by_time`, which had to be cut in two.
    """

    is_train: Mask
    is_held: Mask
    by_time: tuple[str, ...] = ()

    def told(self) -> str:
        """How the sources `by_time` were held out, for a concept's card and the report; empty where there are none."""
        if not self.by_time:
            return ""
        named = ", ".join(f"'{source}'" for source in self.by_time[:_TOLD_SOURCES])
        more = f" and {rest} more" if (rest := len(self.by_time) - _TOLD_SOURCES) > 0 else ""
        return f"judged by the last part of the only source of a class, one clip after what was learned: {named}{more}"


def balanced_subset(classes: Sequence[Hashable], groups: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """Indices, rising, of `count` of N items whose `classes` [N] and, within a class, whose `groups` [N] take turns.

    Every class gets the same number, to within one. Each starts with another group than the class before it, so that a
    subset smaller than classes times groups still hears every group. A larger `count` keeps what a smaller one has.

    Raises:
        ClipError: `count` is not 1..N, or a class has too few items.
    """
    if not 1 <= count <= len(classes):
        raise ClipError(f"subset is {count}, expected 1..{len(classes)}")
    members: dict[Hashable, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in np.random.default_rng(seed).permutation(len(classes)).tolist():
        members[classes[index]][groups[index]].append(index)
    names = list(dict.fromkeys(classes))
    chosen: list[int] = []
    for place, name in enumerate(names):
        share = count // len(names) + (place < count % len(names))
        turns = list(_in_turns([members[name][group] for group in _rotated(sorted(members[name]), place)]))
        if share > len(turns):
            raise ClipError(f"subset of {count} needs {share} clips of class {name!r}, which has {len(turns)}")
        chosen += turns[:share]
    return sorted(chosen)


def _rotated(groups: list[str], place: int) -> list[str]:
    """The groups in an order of their own, shuffled alike for every class, beginning at another one for each."""
    shuffled = np.random.default_rng(len(groups)).permutation(np.asarray(groups, dtype=object)).tolist()
    start = place % len(groups)
    return [*shuffled[start:], *shuffled[:start]]


def _in_turns(piles: list[list[int]]) -> Iterable[int]:
    """One item of every pile, then the next of each."""
    for depth in range(max(len(pile) for pile in piles)):
        yield from (pile[depth] for pile in piles if depth < len(pile))


def hold_out(groups: Sequence[str], classes: Sequence[Hashable], share: float = 0.25, seed: int = 0) -> Mask:
    """Which of N clips to keep back [N]: whole `groups` [N], and of each of the `classes` [N] about `share` (0..1).

    Groups are taken in a shuffled order while each brings the held-out counts of the classes nearer to the share; then
    a class without any gets its smallest group. Numbers as `classes` are meant to be binned by the caller.

    Raises:
        ClipError: a class has one group only, or the groups overlap so that no split serves every class.
    """
    counts: dict[str, Counter[Hashable]] = defaultdict(Counter)
    sources: dict[Hashable, set[str]] = defaultdict(set)
    for group, name in zip(groups, classes, strict=True):
        counts[group][name] += 1
        sources[name].add(group)
    for name, own in sources.items():
        if len(own) < 2:
            raise ClipError(f"class {name!r} comes from '{next(iter(own))}' alone, expected 2 sources or more")
    held = _greedy(counts, Counter(classes), share, np.random.default_rng(seed))
    for own in sources.values():
        if not own & held:
            held.add(min(own, key=lambda group: (counts[group].total(), group)))
        if own <= held:
            held.remove(min(own, key=lambda group: (counts[group].total(), group)))
    if any(not own & held or own <= held for own in sources.values()):
        raise ClipError(f"{len(counts)} sources cannot be split so that every class is on both sides")
    return np.asarray([group in held for group in groups])


def split_clips(groups: Sequence[str], classes: Sequence[Hashable], share: float = 0.25, seed: int = 0) -> Split:
    """Hold out as `hold_out` does, but a source that a class has for its only one by time.

    Of each class in such a source the first clips are learned from, one is left out, and about `share` of them at the
    end are kept back. Clips of a source come in the order of their time.

    Raises:
        ClipError: a class has one source with fewer than LEAST_ALONE clips, or as `hold_out`.
    """
    by_time = _sources_alone(groups, classes)
    is_train, is_held = np.zeros(len(groups), np.bool_), np.zeros(len(groups), np.bool_)
    for source in by_time:
        members: dict[Hashable, list[int]] = defaultdict(list)
        for index, (group, name) in enumerate(zip(groups, classes, strict=True)):
            if group == source:
                members[name].append(index)
        for name, own in members.items():
            if len(own) < LEAST_ALONE:
                raise ClipError(
                    f"class {name!r} has {len(own)} clips of '{source}', the only source of a class, expected 2 sources"
                    f" or more, or {LEAST_ALONE} clips"
                )
            held = max(1, round(share * len(own)))
            is_train[own[: -held - 1]], is_held[own[-held:]] = True, True
    whole = [index for index, group in enumerate(groups) if group not in by_time]
    if whole:
        is_held[whole] = hold_out([groups[index] for index in whole], [classes[index] for index in whole], share, seed)
        is_train[whole] = ~is_held[whole]
    return Split(is_train, is_held, tuple(by_time))


def _sources_alone(groups: Sequence[str], classes: Sequence[Hashable]) -> list[str]:
    """Sources, in order, without which every class has two others or none at all."""
    found: set[str] = set()
    while True:
        sources: dict[Hashable, set[str]] = defaultdict(set)
        for group, name in zip(groups, classes, strict=True):
            if group not in found:
                sources[name].add(group)
        alone = {next(iter(own)) for own in sources.values() if len(own) == 1}
        if not alone:
            return sorted(found)
        found |= alone


def _greedy(
    counts: dict[str, Counter[Hashable]], totals: Counter[Hashable], share: float, rng: np.random.Generator
) -> set[str]:
    wanted = {name: share * total for name, total in totals.items()}
    held: set[str] = set()
    for group in rng.permutation(np.asarray(sorted(counts), dtype=object)).tolist():
        gain = sum(abs(wanted[name]) - abs(wanted[name] - count) for name, count in counts[group].items())
        if gain > 0:
            held.add(group)
            for name, count in counts[group].items():
                wanted[name] -= count
    return held
