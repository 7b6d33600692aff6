"""From the composer's turns to banks that nobody has listened to yet: directions, lengths and scores. Used by `banks`.

Every set is learned for itself. Coded turns and pushes are kept in a folder, named by all that they depend on, so that
an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.clips import Label
from rfm_live.concepts.scores import auc
from rfm_live.concepts.splits import Mask
from rfm_live.concepts.turning import EPOCHS, TRAINED_LENGTHS, Turns, learn_turns, read_turns
from rfm_live.embedded.heard_lessons import codec_digest
from rfm_live.embedded.music_meters import full_caption
from rfm_live.embedded.turns import Turn, draw_turns, sounded
from rfm_live.experiments.lessons import Stages
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import ConceptCard

ORIGIN = "pieces of rfm_live.embedded.composer, FluidSynth with FluidR3 Mono (MIT)"
LICENCE = "Apache-2.0"
FORMAT = 5
"""To be raised when the same turns begin to be written, sounded or learned from another way."""
_HELD_SHARE = 0.2

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Teaching:
    """How many `turns` a concept gets, the `seed` of their draws, and in how many `epochs` they are learned."""

    turns: int = 48
    seed: int = 7
    epochs: int = EPOCHS

    def count(self, concept: str) -> int:
        """Twice as many turns, thrice for what differs by little, such as notes, or has an opposite to turn to."""
        is_heard_at_once = concept.split("_")[0] in ("timbre", "texture")
        return max(round((2.0 if is_heard_at_once else 3.0) * self.turns), 4)


@dataclass(frozen=True)
class Taught:
    """What was learned for the C concepts of a set, `names`: `pushes` [C, L, D], what was heard behind all N turns,
    `points` [N, L, D], which of them were learned from and which kept back [N], and the hidden state's lengths [L].
    `is_inherited` where the pushes were learned for the checkpoint that this one went on from.
    """

    names: tuple[str, ...]
    pushes: Array
    points: Array
    shares: Array
    is_train: Mask
    norms: Array
    is_inherited: bool


def taught(
    model: MusicGen,
    concepts: Sequence[str],
    teaching: Teaching,
    folder: Path,
    stages: Stages,
    inherited: Array | None = None,
) -> Taught:
    """Learn the concepts of one set of the composer, or find them in `folder`; or keep the pushes `inherited` [C, L, D]
    and only hear the turns.

    Raises:
        StartError: FluidSynth or its soundfont is missing, or the folder cannot be written.
    """
    turns = [turn for name in concepts for turn in draw_turns(name, teaching.count(name), teaching.seed)]
    is_train = _learned_from(turns, teaching.seed)
    if inherited is None:
        named = _named(model.sha256, teaching, concepts, teaching.epochs, *TRAINED_LENGTHS)
    else:
        named = _named(model.sha256, teaching, concepts, sha256(inherited.tobytes()).hexdigest())
    file = folder / f"taught_{named}.safetensors"
    stored = kept(file)
    if stored is None:
        turns_file = folder / f"turns_{_named(codec_digest(model), teaching, concepts)}.safetensors"
        coded = _coded(model, turns, concepts, turns_file, stages)
        with stages("reading turns"):
            points = read_turns(model, coded)
            norms = np.linalg.norm(points, axis=-1).mean(axis=0).astype(np.float32)  # [L]
        if inherited is None:
            with stages("learning from turns") as report:
                learned_from = coded.chosen(np.flatnonzero(is_train))
                pushes = learn_turns(model, learned_from, norms, teaching.epochs, progress=report)
        else:
            pushes = inherited
        stored = {"pushes": pushes, "points": points, "norms": norms, "shares": coded.shares}
        keep(stored, file)
    return Taught(tuple(concepts), is_train=is_train, is_inherited=inherited is not None, **stored)


def _named(weights: str, teaching: Teaching, concepts: Sequence[str], *learning: float | str) -> str:
    """What names a set's turns, or what was learned from them and how, by the weights that heard them."""
    parts = [FORMAT, weights, teaching.turns, teaching.seed, *concepts, *learning]
    return sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _coded(model: MusicGen, turns: Sequence[Turn], names: Sequence[str], file: Path, stages: Stages) -> Turns:
    """The turns as the model hears them, found in `file` or kept there."""
    stored = kept(file)
    if stored is None:
        with stages("sounding turns") as report:
            made = sounded(model, turns, names, report)
        stored = {"codes": made.codes, "shares": made.shares, "turn": np.asarray([made.turn])}
        keep(stored, file)
    prompts = [full_caption(turn.before.style) for turn in turns]
    return Turns(stored["codes"], int(stored["turn"][0]), stored["shares"], prompts)


def _learned_from(turns: Sequence[Turn], seed: int) -> Mask:
    """Which turns are learned from: of every concept's, all but some instruments'; of families, all but some turns."""
    is_train = np.zeros(len(turns), np.bool_)
    for concept in dict.fromkeys(turn.concept for turn in turns):
        rows = [row for row, turn in enumerate(turns) if turn.concept == concept]
        groups = [str(row) if concept.startswith("timbre_") else turns[row].after.style.instrument.name for row in rows]
        classes: list[Label] = [turns[row].share for row in rows]
        is_train[rows] = _without_some(groups, classes, seed)
    return is_train


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


def uncalibrated(model: MusicGen, teaching: Teaching, found: Taught, gate: float = 1.0) -> ConceptBank:
    """The bank of one set, in which knob 1.0 pushes as far as was learned, in a share `gate` of the frames, 0..1.

    A block's score is the area under the curve on turns that were held out, the concept's against the others of the
    set; of a concept with an opposite, against that.
    """
    lengths = np.linalg.norm(found.pushes, axis=-1)  # [C, L]
    vectors = found.pushes / np.maximum(lengths, 1e-12)[..., None]
    readings = [_read(found, vectors[place], place) for place in range(len(found.names))]
    tables: dict[str, Any] = {
        name: np.stack([one[name] for one in readings]).astype(np.float32) for name in readings[0]
    }
    method = (
        f"pushes trained on {teaching.count(found.names[0])} turns of the composer's music to the concept, less those "
        "held out, from their gradient on"
    )
    if found.is_inherited:
        method += ", for the checkpoint that this one went on from"
    count = len(found.names)
    return ConceptBank(
        names=found.names,
        directions=vectors.astype(np.float32),
        unit=np.ones(count, np.float32),
        layer_weights=lengths.astype(np.float32),
        gate=np.full(count, gate, np.float32),
        period=np.ones(count, np.int64),
        checkpoint_sha256=model.sha256,
        residual_norm=np.tile(found.norms, (count, 1)),
        cards=(ConceptCard(method, "auc", ORIGIN, LICENCE),) * count,
        **tables,
    )


def _read(found: Taught, vectors: Array, place: int) -> dict[str, Array]:
    """Projections of the turns with a concept and of the others of its set, and how well they are told apart."""
    projections = np.einsum("nld,ld->nl", found.points, vectors)  # [N, L]
    is_with = found.shares[:, place] > 0.0
    is_without = ~is_with
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
