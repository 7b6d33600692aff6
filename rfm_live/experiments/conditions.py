"""What is played for an experiment: a clip is a prompt, a seed and knobs, and what is read off it is kept.

Used by every experiment. A clip goes on from the same unsteered bars as every other clip of its prompt and seed, so two
clips differ by their knobs alone. Its readings lie in the cache under a hash of all that they depend on: an interrupted
run goes on where it was, and a changed bank, checkpoint, length or reader is played again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.clips import Progress, Samples, no_progress
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine, EngineState
from rfm_live.errors import StartError
from rfm_live.experiments.ensemble import Ensemble
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

FORMAT = 3
"""To be raised when the same condition begins to sound or to be read another way."""

Setting = tuple[str, float | str]
Settings = tuple[Setting, ...]
"""Addresses of the control table and their values, set in this order when steering begins."""
Record = Mapping[str, npt.NDArray[Any]]
"""What a reader found in a clip, by name."""


@dataclass(frozen=True)
class Condition:
    """One clip: `lead_seconds` unsteered, then `settings`; after `settle_seconds` more, what is heard."""

    prompt: str
    seed: int
    settings: Settings = ()
    lead_seconds: float = 3.0
    settle_seconds: float = 1.0
    heard_seconds: float = 8.0

    @property
    def acting(self) -> tuple[str, ...]:
        """The concepts that the settings turn, in their order."""
        named = (address.split("/") for address, _ in self.settings)
        return tuple(dict.fromkeys(parts[2] for parts in named if parts[1] == "concept"))


class Reader(Protocol):
    """What is read off a clip; `identity` changes when the same samples would be read another way."""

    @property
    def identity(self) -> str: ...

    def read(self, samples: Samples) -> Record: ...


def turned(concept: str, eta: float, **fields: float | str) -> Settings:
    """The settings of one knob at `eta`, its other fields first."""
    others = tuple((f"/concept/{concept}/{name}", value) for name, value in fields.items())
    return (*others, (f"/concept/{concept}/eta", eta))


class Studio:
    """One checkpoint with one bank, where conditions are played and measured."""

    def __init__(self, model: MusicGen, bank: ConceptBank, cache: Path) -> None:
        self.bank, self.cache = bank, cache
        self._model = model
        self._settings = default_settings(model.path, model.config)
        self._engine: Engine | None = None
        self._ensemble: Ensemble | None = None
        self._start: EngineState | None = None
        self._led: tuple[tuple[str, int, float], EngineState] | None = None
        self._fingerprints: dict[str, str] = {}

    def samples(self, condition: Condition) -> Samples:
        """Play a condition: float32 [heard_seconds * rate], the same every time."""
        engine = self._led_engine(condition)
        for address, value in condition.settings:
            engine.apply(address, value)
        skipped = round(condition.settle_seconds * engine.sample_rate)
        return engine.render([], condition.settle_seconds + condition.heard_seconds)[skipped:]

    def measured(
        self, conditions: Iterable[Condition], reader: Reader, progress: Progress = no_progress
    ) -> dict[Condition, Record]:
        """The records of all conditions; only those that the cache lacks are played.

        Raises:
            StartError: a record cannot be written.
        """
        wanted = list(dict.fromkeys(conditions))
        found: dict[Condition, Record] = {}
        for condition in wanted:
            if (earlier := kept(self._file(condition, reader))) is not None:
                found[condition] = earlier
        progress(len(found), len(wanted))
        missing = sorted(set(wanted) - found.keys(), key=_order)
        for condition, samples in self._played(missing):
            record = reader.read(samples)
            keep(record, self._file(condition, reader))
            found[condition] = record
            progress(len(found), len(wanted))
        return found

    def _played(self, conditions: Sequence[Condition]) -> Iterator[tuple[Condition, Samples]]:
        """Every condition with its samples: together where that can be, the others one by one."""
        self._ensemble = self._ensemble or Ensemble(self._model, self.bank)
        together = [one for one in conditions if self._ensemble.can_play(one)]
        yield from self._ensemble.samples(together)
        for condition in conditions:
            if not self._ensemble.can_play(condition):
                yield condition, self.samples(condition)

    def _led_engine(self, condition: Condition) -> Engine:
        """The engine after the unsteered bars of a condition; those of the last prompt and seed are remembered."""
        if self._engine is None or self._start is None:
            self._engine = Engine(self._model, self.bank, self._settings)
            self._start = self._engine.copy_state()
        engine, lead = self._engine, (condition.prompt, condition.seed, condition.lead_seconds)
        if self._led is None or self._led[0] != lead:
            engine.restore_state(self._start)
            engine.apply("/prompt", condition.prompt)
            engine.apply("/seed", condition.seed)
            engine.render([], condition.lead_seconds)
            self._led = lead, engine.copy_state()
        engine.restore_state(self._led[1])
        return engine

    def _file(self, condition: Condition, reader: Reader) -> Path:
        """Where a condition's record is kept: named by all that it depends on."""
        made_of = {
            "format": FORMAT,
            "checkpoint": self._model.sha256,
            "sampling": asdict(self._settings.sampling),
            "condition": asdict(condition),
            "concepts": [self._fingerprint(name) for name in condition.acting],
            "reader": reader.identity,
        }
        name = sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return self.cache / name[:2] / f"{name}.safetensors"

    def _fingerprint(self, name: str) -> str:
        """A hash of all that the bank says of a concept, and of its place, which the gate's draws go by."""
        if name not in self._fingerprints:
            if name not in self.bank.names:
                raise StartError(f"concept '{name}' is not in the bank, expected one of {', '.join(self.bank.names)}")
            bank, index = self.bank, self.bank.names.index(name)
            digest = sha256(f"{index}".encode())
            tables = ("directions", "scores", "mean", "spread", "other_mean", "residual_norm", "unit")
            for table in (*tables, "layer_weights", "gate", "period"):
                values = getattr(bank, table)
                digest.update(b"none" if values is None else np.ascontiguousarray(values[index]).tobytes())
            self._fingerprints[name] = digest.hexdigest()
        return self._fingerprints[name]


def _order(condition: Condition) -> tuple[float, float, float, str, int, str]:
    """Conditions of equal lengths beside each other, and among them those that begin alike."""
    lengths = condition.lead_seconds, condition.settle_seconds, condition.heard_seconds
    return *lengths, condition.prompt, condition.seed, str(condition.settings)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what it asks of each attribute that classifiers hear, such as {"instrument": "flute"}."""

    text: str
    asked: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Played:
    """What is played once with every seed: `settings`, with `words` behind the prompt, `seeds_on` seeds further on."""

    settings: Settings = ()
    words: str = ""
    seeds_on: int = 0


UNSTEERED = Played()


@dataclass(frozen=True)
class Clips:
    """Which clips stand for a `Played`: one per seed, the prompts taking turns, all of the same lengths."""

    prompts: Sequence[Prompt] = (Prompt(""),)
    seeds: Sequence[int] = tuple(range(5000, 5008))
    heard_seconds: float = 8.0
    lead_seconds: float = 3.0
    settle_seconds: float = 1.0

    def prompt(self, place: int) -> Prompt:
        """The prompt of the seed at `place`."""
        return self.prompts[place % len(self.prompts)]

    def conditions(self, played: Played) -> list[Condition]:
        """One for each seed, in their order."""
        lengths = self.lead_seconds, self.settle_seconds, self.heard_seconds
        made = []
        for place, seed in enumerate(self.seeds):
            words = ", ".join(filter(None, (self.prompt(place).text, played.words)))
            made.append(Condition(words, seed + played.seeds_on, played.settings, *lengths))
        return made


Heard = dict[Played, list[Record]]
"""The records of what was played, one per seed."""


def hear(
    studio: Studio, clips: Clips, wanted: Iterable[Played], reader: Reader, progress: Progress = no_progress
) -> Heard:
    """Play, or find in the cache, everything wanted with every seed."""
    by_played = {played: clips.conditions(played) for played in wanted}
    found = studio.measured((one for conditions in by_played.values() for one in conditions), reader, progress)
    return {played: [found[one] for one in conditions] for played, conditions in by_played.items()}
