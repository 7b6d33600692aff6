"""From the composer's turns to banks that nobody has listened to yet: directions, lengths and scores. Used by `banks`.

All concepts are learned together, since what one turn changes beside its concept is told apart by the others. Coded
turns and pushes are kept in a folder, named by all that they depend on, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rfm_live.concepts.clips import Label
from rfm_live.concepts.scores import auc
from rfm_live.concepts.splits import Mask
from rfm_live.concepts.turning import Turns, learn_turns, read_turns
from rfm_live.embedded.music_meters import full_caption
from rfm_live.embedded.turns import Turn, concept_sets, draw_turns, sounded
from rfm_live.errors import StartError
from rfm_live.experiments.lessons import Stages
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import ConceptCard

ORIGIN = "pieces of rfm_live.embedded.composer, FluidSynth with FluidR3 Mono (MIT)"
LICENCE = "Apache-2.0"
FORMAT = 4
"""To be raised when the same turns begin to be written, sounded or learned from another way."""
_HELD_SHARE = 0.2

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Teaching:
    """How many `turns` a concept gets, and the `seed` of their draws."""

    turns: int = 24
    seed: int = 7

    def count(self, concept: str) -> int:
        """What takes many turns: notes, which differ by little, and chords; families by their several instruments."""
        share = {"note": 2.0, "chord": 2.0, "timbre": 1.5}.get(concept.split("_")[0], 1.0)
        share = 2.0 if concept in ("mode_minor", "tempo", "density", "brightness", "drums") else share
        return max(round(share * self.turns), 4)


@dataclass(frozen=True)
class Taught:
    """What was learned for all C concepts of `names`: `pushes` [C, L, D], what was heard behind all N turns, `points`
    [N, L, D], which of them were learned from and which kept back [N], and the hidden state's lengths [L].
    """

    names: tuple[str, ...]
    pushes: Array
    points: Array
    shares: Array
    is_train: Mask
    norms: Array


def taught(model: MusicGen, teaching: Teaching, folder: Path, stages: Stages) -> Taught:
    """Learn all concepts of the composer, or find them in `folder`.

    Raises:
        StartError: FluidSynth or its soundfont is missing, or the folder cannot be written.
    """
    names = tuple(name for names in concept_sets().values() for name in names)
    turns = [turn for name in names for turn in draw_turns(name, teaching.count(name), teaching.seed)]
    is_train = _learned_from(turns, teaching.seed)
    made_of = [FORMAT, model.sha256, asdict(teaching), names]
    name = sha256(json.dumps(made_of).encode()).hexdigest()[:24]
    stored = _kept(folder / f"taught_{name}.safetensors")
    if stored is None:
        coded = _coded(model, turns, names, folder / f"turns_{name}.safetensors", stages)
        with stages("reading turns"):
            points = read_turns(model, coded)
            norms = np.linalg.norm(points, axis=-1).mean(axis=0).astype(np.float32)  # [L]
        with stages("learning from turns") as report:
            part = coded.chosen(np.flatnonzero(is_train))
            part = replace(part, shares=against_rivals(part.shares, names))
            pushes = learn_turns(model, part, norms, progress=report)
        stored = {"pushes": pushes, "points": points, "norms": norms}
        stored["shares"] = coded.shares
        _keep(stored, folder / f"taught_{name}.safetensors")
    return Taught(names, is_train=is_train, **stored)


def against_rivals(shares: Array, names: Sequence[str]) -> Array:
    """Shares [N, C] in which the turns to a concept's rivals, the others of its set, count together as much as its own,
    the other way: so the direction is left without what all turns of the set have in common.
    """
    contrasted = shares.copy()
    for members in concept_sets().values():
        places = [names.index(name) for name in members if name in names]
        own = shares[:, places]  # [N, M]
        for column, place in enumerate(places):
            rivals = np.delete(own, column, axis=1).sum(axis=1)  # [N]
            if rivals.any():
                contrasted[:, place] -= rivals * own[:, column].sum() / rivals.sum()
    return contrasted


def _coded(model: MusicGen, turns: Sequence[Turn], names: Sequence[str], file: Path, stages: Stages) -> Turns:
    """The turns as the model hears them, found in `file` or kept there."""
    stored = _kept(file)
    if stored is None:
        with stages("sounding turns") as report:
            made = sounded(model, turns, names, report)
        stored = {"codes": made.codes, "shares": made.shares, "turn": np.asarray([made.turn])}
        _keep(stored, file)
    prompts = [full_caption(turn.before.style) for turn in turns]
    return Turns(stored["codes"], int(stored["turn"][0]), stored["shares"], prompts)


def _learned_from(turns: Sequence[Turn], seed: int) -> Mask:
    """Which turns are learned from: of every concept's, all but some instruments'; of families, all but some turns."""
    kept = np.zeros(len(turns), np.bool_)
    for concept in dict.fromkeys(turn.concept for turn in turns):
        rows = [row for row, turn in enumerate(turns) if turn.concept == concept]
        groups = [str(row) if concept.startswith("timbre_") else turns[row].after.style.instrument.name for row in rows]
        classes: list[Label] = [turns[row].share for row in rows]
        kept[rows] = _without_some(groups, classes, seed)
    return kept


def _without_some(groups: Sequence[str], classes: Sequence[Label], seed: int) -> Mask:
    """All rows but those of a fifth of the groups, which are drawn; every class keeps one."""
    distinct = sorted(set(groups))
    drawn = np.random.default_rng([seed, len(groups)]).permutation(len(distinct))
    held = {distinct[place] for place in drawn[: max(round(_HELD_SHARE * len(distinct)), 1)]}
    is_train = np.asarray([group not in held for group in groups])
    for one in set(classes):
        members = np.flatnonzero([other == one for other in classes])
        if not is_train[members].any():
            is_train[members[0]] = True
    return is_train


def uncalibrated(model: MusicGen, teaching: Teaching, found: Taught, concepts: Sequence[str]) -> ConceptBank:
    """The bank of one set, in which knob 1.0 pushes as far as was learned.

    A block's score is the area under the curve on turns that were held out, the concept's against the others of the
    set; of a concept with an opposite, against that.
    """
    places = [found.names.index(name) for name in concepts]
    lengths = np.linalg.norm(found.pushes[places], axis=-1)  # [C, L]
    vectors = found.pushes[places] / np.maximum(lengths, 1e-12)[..., None]
    in_set = (found.shares[:, places] != 0.0).any(axis=1)  # [N]
    readings = [_read(found, vectors[row], place, in_set) for row, place in enumerate(places)]
    tables: dict[str, Any] = {
        name: np.stack([one[name] for one in readings]).astype(np.float32) for name in readings[0]
    }
    method = (
        f"gradient of {teaching.count(concepts[0])} turns of the composer's music to the concept, less those held out, "
        "against the set's other concepts"
    )
    count = len(concepts)
    return ConceptBank(
        names=tuple(concepts),
        directions=vectors.astype(np.float32),
        unit=np.ones(count, np.float32),
        layer_weights=lengths.astype(np.float32),
        gate=np.ones(count, np.float32),
        period=np.ones(count, np.int64),
        checkpoint_sha256=model.sha256,
        residual_norm=np.tile(found.norms, (count, 1)),
        cards=(ConceptCard(method, "auc", ORIGIN, LICENCE),) * count,
        **tables,
    )


def _read(found: Taught, vectors: Array, place: int, in_set: Mask) -> dict[str, Array]:
    """Projections of the turns with a concept and of the others of its set, and how well they are told apart."""
    projections = np.einsum("nld,ld->nl", found.points, vectors)  # [N, L]
    is_with, is_without = found.shares[:, place] > 0.0, in_set & (found.shares[:, place] <= 0.0)
    own, other = projections[is_with & found.is_train], projections[is_without & found.is_train]
    held, held_other = projections[is_with & ~found.is_train], projections[is_without & ~found.is_train]
    scores = auc(held, held_other) if len(held) and len(held_other) else np.full(projections.shape[1], 0.5)
    return {
        "scores": scores,
        "mean": own.mean(axis=0),
        "spread": own.std(axis=0),
        "other_mean": other.mean(axis=0),
        "other_spread": other.std(axis=0),
    }


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError):
        return None


def _keep(arrays: dict[str, Any], file: Path) -> None:
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, part)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise StartError(f"'{file}' cannot be written: {str(error).lower()}") from error
