"""What is read off a clip, and which of it judges a concept: external meters first, a probe only where none hears it.

Used by every experiment. `ClipReader` reads everything at once, so that a clip in the cache answers later questions.
The judge of a concept goes by its kind: frame dominance for notes, templates for chords, the key's margin for modes,
onsets for tempo and density, the centroid for brightness, classifiers trained on other clips for instruments and drums,
and for anything else the meter that the concept's card names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rfm_live.concepts.clap import Clap
from rfm_live.concepts.clips import Samples
from rfm_live.concepts.effect_meters import (
    CENTROID,
    METERS,
    MINOR,
    ONSET_RATE,
    SHARE,
    chords_of,
    dominance_of,
    readings,
)
from rfm_live.concepts.embeddings import hidden_rows, mel_rows
from rfm_live.concepts.harmony import PITCH_CLASSES
from rfm_live.concepts.meters import SAMPLE_RATE_HZ, SILENCE_DB, frame_levels_db
from rfm_live.concepts.music_analysis import QUALITIES, voiced_chroma
from rfm_live.concepts.sound_classifiers import SoundClassifiers, features
from rfm_live.concepts.states import Reading, read_points
from rfm_live.errors import StartError
from rfm_live.experiments.conditions import Clips, Record
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

FAMILIES = ("note", "chord", "interval", "scale", "progression", "time_signature", "mode", "timbre", "texture")
"""Kinds of which a bank holds several concepts, called KIND_CLASS; any other concept is a kind of its own."""
TIMBRES = ("instrument", "family")
"""Attributes of classifiers whose classes a concept called timbre_CLASS stands for."""
_SHORTEST_HEARD, _SHORTEST_CLASSIFIED = 1.0, 3.0
_PLACES = {name: place for place, name in enumerate(METERS)}


def kind_of(concept: str) -> str:
    """The kind of a concept by its name: "note" for note_c, "tempo" for tempo."""
    return next((family for family in FAMILIES if concept.startswith(f"{family}_")), concept)


class ClipReader:
    """Reads everything that judges may ask: meters, chroma shares, embeddings, hidden states, features, CLAP."""

    def __init__(self, model: MusicGen, clap: Clap | None = None) -> None:
        """Raises StartError for a model of another rate than the meters'."""
        if model.config.sample_rate != SAMPLE_RATE_HZ:
            raise StartError(f"checkpoint plays at {model.config.sample_rate} Hz, the meters hear {SAMPLE_RATE_HZ} Hz")
        self._model, self._clap = model, clap

    @property
    def identity(self) -> str:
        return f"clip 2, {', '.join(METERS)}, clap {self._clap and self._clap.sha256}"

    def read(self, samples: Samples) -> Record:
        """`meters` in the order of METERS, `chroma` [12] shares of the sounding frames' sum, `sounding` share of them,
        `mel` and `hidden` rows of a second, `points` [L, D], and where the clip is long enough `features`.
        """
        told = readings(samples)
        chroma = voiced_chroma(samples).sum(axis=1)
        frames = len(samples) // self._model.config.hop * self._model.config.hop
        points = read_points(self._model, torch.from_numpy(samples[None, :frames].copy()), Reading(segments=1))
        record = {
            "meters": np.asarray([told[name] for name in METERS], np.float64),
            "chroma": chroma / max(float(chroma.sum()), 1e-12),
            "sounding": np.asarray([(frame_levels_db(samples) > SILENCE_DB).mean()]),
            "mel": mel_rows(samples),
            "hidden": hidden_rows(self._model, samples),
            "points": points.mean[0].numpy(),
        }
        if len(samples) >= _SHORTEST_CLASSIFIED * SAMPLE_RATE_HZ:
            record["features"] = features(samples)
        if self._clap is not None:
            record["clap"] = self._clap.audio_rows([samples], SAMPLE_RATE_HZ)[0]
        return record


def check_seconds(model: MusicGen, seconds: float) -> None:
    """Raises StartError for clips that are too short to embed, or longer than the decoder can hear at once."""
    frames = model.config.decoder.max_positions - model.config.decoder.codebooks - 1
    longest = frames // round(model.config.frame_rate)
    if not 2 * _SHORTEST_HEARD <= seconds <= longest:
        raise StartError(f"clips of {seconds:g} s, expected {2 * _SHORTEST_HEARD:g}..{longest} for this checkpoint")


@dataclass(frozen=True)
class Judge:
    """Who hears a concept. More of it reads higher where `sign` is 1, lower where it is -1.

    `value` reads a record. `is_hit` says whether the concept is what is heard most among its `classes` rivals (None: it
    has none), `heard_as` by which attribute and class of the classifiers, where they judge. `is_relative` meters (Hz,
    onsets) count their change as a share of what unsteered clips read.
    """

    concept: str
    meter: str
    unit: str
    sign: float
    is_external: bool
    value: Callable[[Record], float]
    is_hit: Callable[[Record], bool] | None = None
    classes: int = 0
    heard_as: tuple[str, str] | None = None
    is_relative: bool = False

    def values(self, records: Sequence[Record]) -> list[float]:
        return [self.value(record) for record in records]

    def changes(self, records: Sequence[Record], unsteered: Sequence[Record]) -> list[float]:
        """How much more of the concept each clip has than the unsteered one of its seed; as shares where relative."""
        before = self.values(unsteered)
        scale = float(np.mean(np.abs(before))) if self.is_relative else 1.0
        return [
            self.sign * (value - plain) / max(scale, 1e-9)
            for value, plain in zip(self.values(records), before, strict=True)
        ]

    def hits(self, clips: Clips, records: Sequence[Record]) -> list[float | None]:
        """1 for each clip in which the concept is what is heard most; None where the prompt asks for it anyway."""
        found: list[float | None] = []
        for place, record in enumerate(records):
            asked = clips.prompt(place).asked or {}
            is_asked = self.heard_as is not None and asked.get(self.heard_as[0]) == self.heard_as[1]
            found.append(None if self.is_hit is None or is_asked else float(self.is_hit(record)))
        return found


def judge_of(bank: ConceptBank, concept: str, classifiers: SoundClassifiers | None = None) -> Judge:
    """Who judges `concept` of `bank`."""
    kind, name = kind_of(concept), concept.removeprefix(f"{kind_of(concept)}_")
    if kind == "note" and name in PITCH_CLASSES:
        return _shares_judge(concept, [dominance_of(one) for one in PITCH_CLASSES], dominance_of(name))
    if kind == "chord" and name in QUALITIES:
        return _shares_judge(concept, [chords_of(one) for one in QUALITIES], chords_of(name))
    if kind == "mode" and name in ("minor", "major"):
        return _mode_judge(concept, 1.0 if name == "minor" else -1.0)
    if concept in ("tempo", "density"):
        return _meter_judge(concept, ONSET_RATE, 1.0)
    if concept == "brightness":
        return _meter_judge(concept, CENTROID, 1.0)
    if classifiers is not None and (found := _heard_class(classifiers, concept)) is not None:
        return _classifier_judge(classifiers, concept, *found)
    effect = bank.cards[bank.names.index(concept)].effect
    if effect is not None and effect.meter in METERS:
        return _meter_judge(concept, effect.meter, 1.0 if effect.at_plus >= effect.at_minus else -1.0)
    return _probe_judge(bank, concept)


def chroma_share_judge(concept: str) -> Judge:
    """The judge of a note beside other notes: its share of the sounding chroma, for a frame has one winner only."""
    place = PITCH_CLASSES.index(concept.removeprefix("note_"))
    return Judge(concept, "chroma share", "share", 1.0, True, lambda record: float(record["chroma"][place]))


def _meter_judge(concept: str, meter: str, sign: float) -> Judge:
    place, unit = _PLACES[meter], METERS[meter][0]
    is_relative = meter in (ONSET_RATE, CENTROID)
    return Judge(
        concept, meter, unit, sign, True, lambda record: float(record["meters"][place]), is_relative=is_relative
    )


def _shares_judge(concept: str, rivals: Sequence[str], meter: str) -> Judge:
    places, own = [_PLACES[rival] for rival in rivals], rivals.index(meter)
    return Judge(
        concept,
        meter,
        SHARE,
        1.0,
        True,
        lambda record: float(record["meters"][places[own]]),
        lambda record: bool(record["meters"][places].argmax() == own and record["meters"][places[own]] > 0.0),
        len(rivals),
    )


def _mode_judge(concept: str, sign: float) -> Judge:
    place = _PLACES[MINOR]
    return Judge(
        concept,
        MINOR,
        METERS[MINOR][0],
        sign,
        True,
        lambda record: float(record["meters"][place]),
        lambda record: bool(sign * record["meters"][place] > 0.0),
        2,
    )


def _heard_class(classifiers: SoundClassifiers, concept: str) -> tuple[str, str] | None:
    """The attribute and the class that a concept stands for, such as instrument and "flute" for timbre_flute."""
    for attribute in classifiers.by_attribute:
        for said in classifiers.classes(attribute):
            spelled = re.sub(r"[^a-z0-9]+", "_", said.lower()).strip("_")
            if concept in (spelled, f"{attribute}_{spelled}", f"timbre_{spelled}" * (attribute in TIMBRES)):
                return attribute, said
    return None


def _classifier_judge(classifiers: SoundClassifiers, concept: str, attribute: str, said: str) -> Judge:
    def is_hit(record: Record) -> bool:
        if "features" not in record:
            raise StartError(f"concept '{concept}' is judged by a classifier, which wants clips of 3 s or more")
        return classifiers.heard_in(record["features"][None])[0][attribute] == said

    return Judge(
        concept,
        f"{attribute} classifier",
        "share of clips",
        1.0,
        True,
        lambda record: float(is_hit(record)),
        is_hit,
        len(classifiers.classes(attribute)),
        (attribute, said),
    )


def _probe_judge(bank: ConceptBank, concept: str) -> Judge:
    index = bank.names.index(concept)
    layer = int(bank.scores[index].argmax())
    direction, (low, high) = bank.directions[index, layer], level_ends(bank, index, layer)
    meter = f"probe of block {layer} on the generated audio"
    return Judge(
        concept,
        meter,
        "of the classes' distance",
        1.0,
        False,
        lambda record: float((record["points"][layer] @ direction - low) / max(high - low, 1e-6)),
    )


def level_ends(bank: ConceptBank, index: int, layer: int) -> tuple[float, float]:
    """The projections of the mean clip without concept `index` and of the mean clip with it."""
    mean, spread = float(bank.mean[index, layer]), float(bank.spread[index, layer])
    if bank.other_mean is None:
        return mean - 2.0 * spread, mean + 2.0 * spread
    return float(bank.other_mean[index, layer]), mean


def adherence(
    classifiers: SoundClassifiers | None, clips: Clips, records: Sequence[Record], attributes: Sequence[str]
) -> list[float | None]:
    """Which share of what its prompt asks of `attributes` each clip is heard to have; None where nobody can say."""
    found: list[float | None] = []
    for place, record in enumerate(records):
        asked = clips.prompt(place).asked or {}
        names = [name for name in attributes if classifiers is not None and name in classifiers.by_attribute]
        names = [name for name in names if name in asked and "features" in record]
        if classifiers is None or not names:
            found.append(None)
            continue
        heard = classifiers.heard_in(record["features"][None])[0]
        found.append(float(np.mean([heard[name] == asked[name] for name in names])))
    return found


def clap_scores(clap: Clap | None, clips: Clips, records: Sequence[Record]) -> list[float | None]:
    """The cosine of each clip with its prompt; None without CLAP, or where the prompt is empty."""
    texts = [clips.prompt(place).text for place in range(len(records))]
    if clap is None or not any(texts):
        return [None] * len(records)
    rows = clap.text_rows(texts)
    scores = [float(record["clap"] @ row) for record, row in zip(records, rows, strict=True)]
    return [score if text else None for score, text in zip(scores, texts, strict=True)]
