"""Directions learned on the spot, for comparison: SynTheory's clips, read and learned from by any method.

Used by the experiments that compare methods or eigenvectors. The directions of all methods come from the same clips, so
they differ by the method alone. Sound, activations and directions are kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.activations import ActivationStore, compute_activations
from rfm_live.concepts.clips import Progress, no_progress
from rfm_live.concepts.learning import LearningSettings, learn_directions
from rfm_live.concepts.syntheory import concept_set
from rfm_live.concepts.syntheory_audio import Rendering, rendered_syntheory
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import MusicGen

SETS = {
    "note": "notes",
    "interval": "intervals",
    "scale": "scales",
    "chord": "chords",
    "progression": "progressions",
    "tempo": "tempos",
    "time_signature": "time_signatures",
}
"""The set of SynTheory that teaches a kind of concepts."""

Stages = Callable[[str], AbstractContextManager[Progress]]
"""Opens a stage of the work under a title; what it gives is told how far the stage is."""
Array = npt.NDArray[np.float32]


def silent_stages(title: str) -> AbstractContextManager[Progress]:
    """Stages that tell nobody."""
    return nullcontext(no_progress)


@dataclass(frozen=True)
class Lessons:
    """Where directions are learned: `clips` of a set, RFM's `draws` and `rounds`, `jobs` tracks rendered at a time."""

    model: MusicGen
    cache: Path
    clips: int = 600
    draws: int = 6
    rounds: int = 4
    jobs: int = 1
    stages: Stages = field(default=silent_stages)

    def store(self, set_name: str, clips: int | None = None) -> ActivationStore:
        """The activations of a set's clips; raises ClipError where they cannot be rendered."""
        clips = clips or self.clips
        with self.stages(f"{set_name}: rendering") as report:
            collection = rendered_syntheory(
                set_name, self.cache / "syntheory", Rendering(clips, jobs=self.jobs), report
            )
        folder = self.cache / "activations" / f"{self.model.sha256[:16]}_{set_name}_{clips}"
        with self.stages(f"{set_name}: reading") as report:
            return compute_activations(self.model, collection, folder, progress=report)

    def settings(self, method: str) -> LearningSettings:
        return LearningSettings(method, draws=self.draws, rounds=self.rounds)

    def directions(self, kind: str, method: str) -> dict[str, Array]:
        """The directions [L, D] of the concepts of a kind by name; raises StartError for a kind without a set."""
        if kind not in SETS:
            raise StartError(f"SynTheory teaches no '{kind}', expected one of {', '.join(SETS)}")
        store, label = self.store(SETS[kind]), concept_set(SETS[kind]).label
        with self.stages(f"{kind}: learning by {method}") as report:
            learned = learn_directions(store, label, kind, self.settings(method), self.cache / "directions", report)
        return {
            concept.name: directions.vectors
            for concept, directions in zip(learned.concepts, learned.directions, strict=True)
        }
