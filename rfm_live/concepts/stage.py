"""Where knobs are tried out: music generated with a knob turned, from the same unsteered beginning. Used to calibrate.

Every trial of a seed goes on from the same bars, as on stage, so two trials differ by their knobs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rfm_live.concepts.clips import Samples
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine, EngineState
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank, merged

RANDOM = "random_control_"
_CONTROLS = 0xC0  # keeps these draws apart from those of `probes.RandomDirection`


@dataclass(frozen=True)
class Play:
    """How a trial is played: `lead_seconds` unsteered, `settle_seconds` with the knobs turned, then what is heard."""

    heard_seconds: float = 4.0
    lead_seconds: float = 2.0
    settle_seconds: float = 1.0
    prompt: str = ""


class Stage:
    """One checkpoint with one bank, to be heard with any knobs."""

    def __init__(self, model: MusicGen, bank: ConceptBank, play: Play) -> None:
        self.bank, self.play = bank, play
        self._engine = Engine(model, bank, default_settings(model.path, model.config, prompt=play.prompt))
        self._start = self._engine.copy_state()
        self._led: dict[int, EngineState] = {}
        self._unsteered: dict[int, Samples] = {}

    @property
    def sample_rate(self) -> int:
        return self._engine.sample_rate

    def hear(self, seed: int, knobs: Mapping[str, float]) -> Samples:
        """What is heard of the piece that `seed` names with the etas `knobs`, -2..2, of some concepts: float32 [N]."""
        if not any(knobs.values()):
            if seed not in self._unsteered:
                self._unsteered[seed] = self._play(seed, {})
            return self._unsteered[seed]
        return self._play(seed, knobs)

    def _play(self, seed: int, knobs: Mapping[str, float]) -> Samples:
        engine, play = self._engine, self.play
        if seed not in self._led:
            engine.restore_state(self._start)
            engine.apply("/seed", seed)
            engine.render([], play.lead_seconds)
            self._led[seed] = engine.copy_state()
        engine.restore_state(self._led[seed])
        engine.apply("/seed", seed)
        for name, eta in knobs.items():
            engine.apply(f"/concept/{name}/eta", eta)
        skipped = round(play.settle_seconds * engine.sample_rate)
        return engine.render([], play.settle_seconds + play.heard_seconds)[skipped:]


def control_of(bank: ConceptBank, name: str) -> str:
    """The name under which `with_controls` puts the random twin of the concept `name`."""
    return f"{RANDOM}{bank.names.index(name)}"


def with_controls(bank: ConceptBank, seed: int = 0) -> ConceptBank:
    """The bank, and behind its concepts each again as `control_of` it, as long, in random directions."""
    vectors = np.random.default_rng([seed, _CONTROLS]).standard_normal(bank.directions.shape).astype(np.float32)
    names = tuple(control_of(bank, name) for name in bank.names)
    controls = replace(bank, names=names, directions=vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
    return merged([bank, controls])
