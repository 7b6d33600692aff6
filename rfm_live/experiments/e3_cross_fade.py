"""E3: a cross-fade of two concepts over 1500 steps, heard step by step: when does the music change hands?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.clips import Samples
from rfm_live.concepts.effect_meters import METERS
from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.concepts.meters import SAMPLE_RATE_HZ
from rfm_live.concepts.states import hidden_states
from rfm_live.errors import StartError
from rfm_live.experiments import published
from rfm_live.experiments.conditions import Played, Record, Studio, hear, turned
from rfm_live.experiments.curves import crossing_frame, smoothed
from rfm_live.experiments.measures import level_ends
from rfm_live.experiments.plots import Axes, Curve, curves_plot
from rfm_live.experiments.report import Findings, Table, told
from rfm_live.experiments.setup import Setup
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

STEPS = 1500
ETA = 1.0
_QUICK_STEPS = 150
_MOST_PAIRS = 6
_SMOOTHING_FRAMES = 50
_WINDOW_SECONDS, _HOP_SECONDS = 2.0, 0.5
SHAPES = ("linear", "cosine")


class TraceReader:
    """Reads two concepts along a clip: `probe` [2, T] step by step, `meter` [2, W] in windows of two seconds.

    The probe is each concept's best block on the generated audio, 0 for the mean clip without it and 1 with it; `meter`
    is left out where a concept's judge is no meter.
    """

    def __init__(
        self, model: MusicGen, bank: ConceptBank, pair: tuple[str, str], meters: tuple[str, str] | None
    ) -> None:
        self._model, self._bank, self._pair, self._meters = model, bank, pair, meters

    @property
    def identity(self) -> str:
        return f"trace 1 of {self._pair} by {self._meters}"

    def read(self, samples: Samples) -> Record:
        record = {"probe": np.stack([self._probe_trace(states, name) for states, name in self._states(samples)])}
        if self._meters is not None:
            windows = _windows(samples)
            record["meter"] = np.asarray(
                [[METERS[name][1](window)[name] for window in windows] for name in self._meters], np.float64
            )
        return record

    def _states(self, samples: Samples) -> list[tuple[npt.NDArray[np.float32], str]]:
        """The states [T, D] of each concept's best block, and its name."""
        layers = [self._layer(name) for name in self._pair]
        parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in layers]
        for start, length, skipped in _stretches(len(samples) // self._model.config.hop, self._longest):
            hop = self._model.config.hop
            heard = torch.from_numpy(samples[None, start * hop : (start + length) * hop].copy())
            with torch.inference_mode():
                states = hidden_states(self._model, heard)[0]  # [L, T, D]
            for part, layer in zip(parts, layers, strict=True):
                part.append(states[layer, skipped:].float().cpu().numpy())
        return [(np.concatenate(part), name) for part, name in zip(parts, self._pair, strict=True)]

    @property
    def _longest(self) -> int:
        """How many frames the model can hear at once."""
        return self._model.config.decoder.max_positions - self._model.config.decoder.codebooks - 1

    def _layer(self, concept: str) -> int:
        return int(self._bank.scores[self._bank.names.index(concept)].argmax())

    def _probe_trace(self, states: npt.NDArray[np.float32], concept: str) -> npt.NDArray[np.float64]:
        index, layer = self._bank.names.index(concept), self._layer(concept)
        low, high = level_ends(self._bank, index, layer)
        return np.asarray((states @ self._bank.directions[index, layer] - low) / max(high - low, 1e-6), np.float64)


def _stretches(frames: int, longest: int) -> list[tuple[int, int, int]]:
    """How to hear `frames` frames, at most `longest` at once: first frame, length, how many of them were heard before.

    Each stretch after the first begins half a stretch early, so that no frame is heard without what came before it.
    """
    if frames <= longest:
        return [(0, frames, 0)]
    half, found, end = longest // 2, [(0, longest, 0)], longest
    while end < frames:
        length = min(longest, frames - end + half)
        found.append((end - half, length, half))
        end += length - half
    return found


def _windows(samples: Samples) -> list[Samples]:
    size, hop = round(_WINDOW_SECONDS * SAMPLE_RATE_HZ), round(_HOP_SECONDS * SAMPLE_RATE_HZ)
    return [samples[start : start + size] for start in range(0, max(len(samples) - size, 0) + 1, hop)]


@dataclass(frozen=True)
class Fade:
    """One cross-fade: means over clips of both traces, and the seconds at which the joining concept takes over."""

    leaving: str
    joining: str
    shape: str
    probe: list[list[float]]
    meter: list[list[float]] | None
    probe_crossings: list[float | None]
    meter_crossings: list[float | None]


def run(setup: Setup) -> Findings:
    """Play every pair and shape, and find the crossings."""
    pairs = fading_pairs(setup)
    steps = _QUICK_STEPS if setup.is_quick else STEPS
    seconds = steps / 50
    clips = replace(setup.clips, heard_seconds=seconds, settle_seconds=0.0)
    studio = Studio(setup.model, setup.bank, setup.cache / "records")
    fades = []
    for leaving, joining in pairs:
        reader = TraceReader(setup.model, setup.bank, (leaving, joining), _meters(setup, leaving, joining))
        with setup.stages(f"{leaving} to {joining}") as report:
            plans = {shape: fading(leaving, joining, shape, seconds) for shape in SHAPES}
            heard = hear(studio, clips, plans.values(), reader, report)
        fades += [_fade(leaving, joining, shape, heard[played]) for shape, played in plans.items()]
    return _findings(fades, seconds)


def fading_pairs(setup: Setup) -> list[tuple[str, str]]:
    """Concepts of one kind, each with the one half a kind away: for notes a tritone.

    Raises:
        StartError: no kind has two concepts.
    """
    pairs = []
    for concepts in setup.kinds.values():
        half = len(concepts) // 2
        pairs += [(concepts[place], concepts[place + half]) for place in range(half)]
    if not pairs:
        raise StartError(f"concepts are {', '.join(setup.concepts)}, expected two of one kind to fade between")
    return pairs[: 1 if setup.is_quick else _MOST_PAIRS]


def fading(leaving: str, joining: str, shape: str, seconds: float) -> Played:
    """Both knobs at ETA, cross-faded from the first frame that is heard."""
    fade = (
        ("/crossfade/from", leaving),
        ("/crossfade/to", joining),
        ("/crossfade/seconds", seconds),
        ("/crossfade/shape", shape),
        ("/crossfade/on", 1),
    )
    return Played((*turned(leaving, ETA), *turned(joining, ETA), *fade))


def _meters(setup: Setup, leaving: str, joining: str) -> tuple[str, str] | None:
    first, second = setup.judge(leaving), setup.judge(joining)
    is_meter = first.meter in METERS and second.meter in METERS and first.meter != second.meter
    return (first.meter, second.meter) if is_meter else None


def _fade(leaving: str, joining: str, shape: str, records: Sequence[Record]) -> Fade:
    probes = [
        np.stack([smoothed(trace, _SMOOTHING_FRAMES) for trace in record["probe"]]) for record in records
    ]  # [2, T] each
    meters = [record["meter"] for record in records if "meter" in record]  # [2, W] each
    return Fade(
        leaving,
        joining,
        shape,
        np.mean(probes, axis=0).round(4).tolist(),
        np.mean(meters, axis=0).round(4).tolist() if meters else None,
        [_seconds(crossing_frame(*trace), 1 / 50, 0.0) for trace in probes],
        [_seconds(crossing_frame(*trace), _HOP_SECONDS, _WINDOW_SECONDS / 2) for trace in meters],
    )


def _seconds(place: int | None, step: float, offset: float) -> float | None:
    return None if place is None else round(place * step + offset, 3)


def _findings(fades: Sequence[Fade], seconds: float) -> Findings:
    plots = []
    for fade in fades:
        times = [frame / 50 for frame in range(len(fade.probe[0]))]
        curves = [
            Curve(f"{name}, probe", times, trace, style="-")
            for name, trace in zip((fade.leaving, fade.joining), fade.probe, strict=True)
        ]
        if fade.meter is not None:
            places = [place * _HOP_SECONDS + _WINDOW_SECONDS / 2 for place in range(len(fade.meter[0]))]
            curves += [
                Curve(f"{name}, meter", places, trace, style="o--")
                for name, trace in zip((fade.leaving, fade.joining), fade.meter, strict=True)
            ]
        name, title = f"{fade.leaving}_{fade.joining}_{fade.shape}", f"{fade.leaving} to {fade.joining}, {fade.shape}"
        plots.append(curves_plot(name, title, Axes("seconds", "reading"), curves, [seconds / 2]))
    return Findings(
        "e3",
        "E3: cross-fade",
        f"Two concepts, one falling while the other rises, over {round(seconds * 50)} steps ({seconds:g} s). The knobs "
        f"cross at {seconds / 2:g} s: when does the music?",
        [
            _verdict("the probe's reading", [fade.probe_crossings for fade in fades], seconds),
            _verdict("the external meter", [fade.meter_crossings for fade in fades], seconds),
        ],
        [_table(fades), _paper_table()],
        plots,
        {"steps": round(seconds * 50), "eta": ETA, "fades": list(fades)},
    )


def _verdict(reader: str, crossings: Sequence[Sequence[float | None]], seconds: float) -> str:
    every = [one for fade in crossings for one in fade]
    times = [one for one in every if one is not None]
    if not times:
        return f"by {reader} no clip of {len(every)} changes hands"
    late = mean_interval([time - seconds / 2 for time in times])
    return f"by {reader} {len(times)} of {len(every)} clips change hands, {told(late, 2)} s after the knobs cross"


def _mean(crossings: Sequence[float | None]) -> Interval | None:
    times = [one for one in crossings if one is not None]
    return mean_interval(times) if times else None


def _table(fades: Sequence[Fade]) -> Table:
    rows = []
    for fade in fades:
        cells = [fade.leaving, fade.joining, fade.shape]
        for crossings in (fade.probe_crossings, fade.meter_crossings):
            count = sum(one is not None for one in crossings)
            cells += [told(_mean(crossings), 2), f"{count} of {len(crossings)}"]
        rows.append(cells)
    head = ("from", "to", "shape", "probe crosses, s", "clips", "meter crosses, s", "clips")
    return Table("Crossing points: ours", head, rows)


def _paper_table() -> Table:
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in published.SCHEDULES.items()]
    note = "eta 0.45 each; the probe of block 37 follows the schedule. No crossing point is published."
    return Table("Schedules on notes: the paper", ("schedule", "FD", "MMD", "CLAP"), rows, note)
