"""Learning a bank: from stored activations to directions, to knobs that were heard to work. Used by `rfm-live learn`.

Three steps, each of which can be interrupted without loss: activations (`activations`), directions (kept in the cache,
one file per concept), and the listening that turns directions into knobs (`calibration`), which only changes numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rfm_live.concepts.activations import ActivationStore
from rfm_live.concepts.clips import Clip, Collection, Progress, Samples, no_progress
from rfm_live.concepts.directions import POOLINGS, ConceptDirections, learn_concept, points_of
from rfm_live.concepts.effect_meters import METERS, ONSET_RATE, Ear, chords_of, dominance_of, fitting_ear, readings
from rfm_live.concepts.geometry import EigenSpectrum, eigen_spectrum
from rfm_live.concepts.harmony import PITCH_CLASSES
from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.concepts.probes import (
    DifferenceOfMeans,
    LeastSquares,
    Logistic,
    Probe,
    RandomDirection,
    RecursiveFeatures,
    Ridge,
)
from rfm_live.concepts.shards import open_shard
from rfm_live.concepts.splits import Mask, Split, split_clips
from rfm_live.concepts.states import hidden_states, learning_device, read_points
from rfm_live.concepts.targets import Concept, classes_of, concepts_of
from rfm_live.errors import ClipError, StartError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import ConceptCard

METHODS = ("rfm", "linear", "ridge", "logistic", "means", "random")
_MOST_RFM_POINTS = 800
_METER_CLIPS = 24
_NORM_CLIPS = 16
_KNOWN_METERS = {
    **{f"note_{name}": dominance_of(name) for name in PITCH_CLASSES},
    **{f"chord_{quality}": chords_of(quality) for quality in QUALITIES},
    "tempo": ONSET_RATE,
}
"""Textbook concepts are heard by their own meters, however these fare on the clips."""


@dataclass(frozen=True)
class LearningSettings:
    """How directions are learned: `method` of METHODS, `pooling` of POOLINGS, RFM's `draws` and `rounds`, a seed.

    `held_share` of the clips, in whole groups, is kept back for the scores.
    """

    method: str = "rfm"
    pooling: str = "mean"
    draws: int = 6
    rounds: int = 4
    held_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise StartError(f"method is '{self.method}', expected one of {', '.join(METHODS)}")
        if self.pooling not in POOLINGS:
            raise StartError(f"pooling is '{self.pooling}', expected one of {', '.join(POOLINGS)}")

    @property
    def probe(self) -> Probe:
        probes: dict[str, Probe] = {
            "rfm": RecursiveFeatures(draws=self.draws, rounds=self.rounds, seed=self.seed, device=learning_device()),
            "linear": LeastSquares(),
            "ridge": Ridge(),
            "logistic": Logistic(),
            "means": DifferenceOfMeans(),
            "random": RandomDirection(self.seed),
        }
        return probes[self.method]

    @property
    def most_points(self) -> int | None:
        """What RFM, whose time grows with the cube of it, learns from at most; others take all."""
        return _MOST_RFM_POINTS if self.method == "rfm" else None

    def told(self) -> str:
        """The method as a concept's card tells it."""
        searched = f", best of {self.draws} draws of {self.rounds} rounds" if self.method == "rfm" else ""
        return f"{self.method} on {self.pooling} points{searched}"


@dataclass(frozen=True)
class Learned:
    """What was learned: the concepts, which clips were held out, and the directions, concept by concept."""

    concepts: list[Concept]
    split: Split
    directions: list[ConceptDirections]


def learn_directions(
    store: ActivationStore,
    label: str,
    name: str,
    settings: LearningSettings,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Learned:
    """Directions of the concepts that the label `label` of the clips tells, called `name` or NAME_CLASS.

    With `cache`, a folder, a concept that was learned from the same points before is read from there.

    Raises:
        ClipError: the labels do not make concepts, or groups cannot be held out.
    """
    labels = store.labels(label)
    concepts = concepts_of(labels, name)
    split = split_clips(store.groups, classes_of(labels), settings.held_share, settings.seed)
    directions = []
    for index, concept in enumerate(concepts):
        file = None if cache is None else cache / f"{_identity(store, concept, split, settings)}.safetensors"
        found = None if file is None else _read_directions(file)
        if found is None:
            try:
                found = learn_concept(store, concept, settings.probe, settings.pooling, split, settings.most_points)
            except ValueError as error:
                raise ClipError(f"concept '{concept.name}': {error}") from error
            if file is not None:
                _write_directions(file, found)
        directions.append(found)
        progress(index + 1, len(concepts))
    return Learned(concepts, split, directions)


def uncalibrated_bank(
    model: MusicGen,
    store: ActivationStore,
    learned: Learned,
    settings: LearningSettings,
    norms: npt.NDArray[np.float32],
) -> ConceptBank:
    """The bank in which knob 1.0 goes as far as the classes lie apart, in the direction of the labels.

    `norms` [L] are the mean lengths of the hidden states.
    """
    count = len(learned.concepts)
    tables: dict[str, Any] = {
        name: np.stack([getattr(directions, name) for directions in learned.directions])
        for name in ("scores", "mean", "spread", "other_mean", "other_spread")
    }
    method = "; ".join(filter(None, (settings.told(), learned.split.told())))
    cards = [ConceptCard(method, concept.score_kind, store.origin, store.licence) for concept in learned.concepts]
    return ConceptBank(
        names=tuple(concept.name for concept in learned.concepts),
        directions=np.stack([directions.vectors for directions in learned.directions]),
        unit=np.ones(count, np.float32),
        layer_weights=np.stack([directions.distance for directions in learned.directions]),
        gate=np.ones(count, np.float32),
        period=np.ones(count, np.int64),
        checkpoint_sha256=model.sha256,
        residual_norm=np.tile(norms, (count, 1)),
        cards=tuple(cards),
        **tables,
    )


def eigen_spectra(store: ActivationStore, learned: Learned, settings: LearningSettings) -> dict[str, EigenSpectrum]:
    """How each concept's machine shares its gradients among directions, at its best block; empty for other methods."""
    probe = settings.probe
    if not isinstance(probe, RecursiveFeatures):
        return {}
    spectra = {}
    for concept, directions in zip(learned.concepts, learned.directions, strict=True):
        layer = int(directions.scores.argmax())
        points = points_of(store, layer, settings.pooling, concept, learned.split, settings.most_points)
        spectra[concept.name] = eigen_spectrum(probe.search(points.x.astype(np.float64), points.y).eigenvalues)
    return spectra


def residual_norms(model: MusicGen, collection: Collection) -> npt.NDArray[np.float32]:
    """Mean length [L] of a frame's hidden state, over some of the clips."""
    norms = []
    for clip in norm_clips(collection):
        samples = clip.read(model.config.sample_rate)
        frames = len(samples) // model.config.hop
        with torch.inference_mode():
            states = hidden_states(model, torch.from_numpy(samples[: frames * model.config.hop])[None])  # [1, L, T, D]
        norms.append(states[0].float().norm(dim=-1).mean(dim=-1).cpu().numpy())
    return np.asarray(np.mean(norms, axis=0), np.float32)


def ears_for(
    model: MusicGen, collection: Collection, store: ActivationStore, learned: Learned, bank: ConceptBank, meter: str
) -> dict[str, Ear]:
    """What hears each concept: the meter `meter`, with "auto" the one that hears the clips' difference best.

    Notes, chords and tempo are always heard by meters of their own; what no meter hears clearly, and everything with
    "probe", is read by the probe of the best block on the generated audio.
    """
    check_meter(meter)
    clips = {clip.name: clip for clip in collection.clips}
    read: dict[str, dict[str, float]] = {}
    ears = {}
    for index, concept in enumerate(learned.concepts):
        ear = None
        if meter != "probe":
            wanted = wanted_meter(concept.name, meter)
            chosen = meter_places(concept)
            for place in chosen:
                clip = store.clips[place].name
                if clip not in read:
                    read[clip] = readings(clips[clip].read(32_000))
            ear = fitting_ear([read[store.clips[place].name] for place in chosen], concept.is_with[chosen], wanted)
        ears[concept.name] = ear or probe_ear(model, bank, index, store)
    return ears


def wanted_meter(name: str, meter: str) -> str | None:
    """The meter that must hear the concept `name`, or None where the clips decide; "probe" is none."""
    return _KNOWN_METERS.get(name) if meter == "auto" else meter


def meter_places(concept: Concept) -> list[int]:
    """The places of the clips that decide which meter hears a concept."""
    return [*_where(concept.is_with), *_where(~concept.is_with)]


def check_meter(meter: str) -> None:
    """Raises StartError for a meter that there is not."""
    if meter not in ("auto", "probe", *METERS):
        raise StartError(f"meter is '{meter}', expected auto, probe or one of {', '.join(METERS)}")


def probe_ear(model: MusicGen, bank: ConceptBank, index: int, store: ActivationStore) -> Ear:
    """The reading of concept `index` at its best block: 0 for the mean clip without it, 1 for the mean clip with it."""
    assert bank.other_mean is not None
    layer = int(bank.scores[index].argmax())
    direction, without = bank.directions[index, layer], float(bank.other_mean[index, layer])
    apart = max(float(bank.mean[index, layer]) - without, 1e-6)

    def read(samples: Samples) -> float:
        frames = len(samples) // model.config.hop
        heard = torch.from_numpy(np.ascontiguousarray(samples[: frames * model.config.hop]))[None]
        point = read_points(model, heard, store.reading).mean[0, layer].numpy()
        return (float(point @ direction) - without) / apart

    return Ear(f"probe of block {layer} on the generated audio", "of the classes' distance", 1.0, False, read, span=1.0)


def _where(mask: Mask) -> list[int]:
    """At most so many places where the mask is set, evenly spread."""
    places = np.flatnonzero(mask)
    return [
        int(place)
        for place in places[np.linspace(0, len(places) - 1, min(len(places), _METER_CLIPS)).round().astype(int)]
    ]


def norm_clips(collection: Collection) -> list[Clip]:
    """The clips whose `residual_norms` are taken."""
    return some_of(collection.clips, _NORM_CLIPS)


def some_of(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` of the clips, evenly spread."""
    return [clips[round(place)] for place in np.linspace(0, len(clips) - 1, min(len(clips), count))]


def _identity(store: ActivationStore, concept: Concept, split: Split, settings: LearningSettings) -> str:
    """A hash of everything that a concept's directions depend on."""
    made_of = [
        [open_shard(store.folder / shard).fingerprint for shard in store.shards],
        concept.targets.tolist(),
        [split.is_train.tolist(), split.is_held.tolist()],
        asdict(settings),
    ]
    return sha256(json.dumps(made_of).encode()).hexdigest()


def _read_directions(file: Path) -> ConceptDirections | None:
    try:
        return ConceptDirections(**load_file(file))
    except (OSError, SafetensorError, TypeError):
        return None


def _write_directions(file: Path, found: ConceptDirections) -> None:
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(asdict(found), part)
        part.replace(file)
    except OSError as error:
        raise ClipError(f"directions '{file}' cannot be written: {error}") from error
