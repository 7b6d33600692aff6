"""What the meters read of the composer's own turns to a concept, as the codec returns them. Used by `banks`.

So reads music that has the concept, played perfectly. A knob may go beyond; where it stays far below, that is the
decoder's or the push's doing, and where this is below a bar, it is the codec's or the meter's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.embedded.heard_lessons import codec_digest
from rfm_live.embedded.turned_banks import FORMAT
from rfm_live.embedded.turns import BEFORE_FRAMES, draw_turns, sounded
from rfm_live.experiments.measures import ClipReader, Judge
from rfm_live.model.checkpoint import MusicGen

TURNS = 16
"""Turns that are drawn of a concept; those to its opposite do not count."""
_SEED = 9
"""Not the seed of the turns that banks are learned from."""


@dataclass(frozen=True)
class Reference:
    """What the judge of a concept reads of turns to it, and in which share of them it is heard most (None: unknown)."""

    reading: Interval
    hits: Interval | None


def reference(model: MusicGen, judge: Judge, lessons: int, folder: Path) -> Reference | None:
    """Judge TURNS of the composer's turns, 3.2 s behind each, or find in `folder` what was heard of them.

    `lessons` is how many pieces have taught the judge, 0 for a meter. None where no turn goes to the concept.

    Raises:
        StartError: FluidSynth or its soundfont is missing, or the folder cannot be written.
    """
    named = [FORMAT, codec_digest(model), lessons, TURNS, _SEED, judge.concept, judge.meter]
    file = folder / f"reference_{sha256(json.dumps(named).encode()).hexdigest()[:24]}.safetensors"
    stored = kept(file)
    if stored is None:
        turns = sounded(model, draw_turns(judge.concept, TURNS, _SEED), (judge.concept,))
        reader, records = ClipReader(model), []
        for codes in turns.codes[turns.shares[:, 0] > 0.0]:
            with torch.inference_mode():
                played = model.codec.decode(torch.from_numpy(codes[None]))[0, 0].numpy()
            records.append(reader.read(played[BEFORE_FRAMES * model.config.hop :]))
        hits = [] if judge.is_hit is None else [float(judge.is_hit(record)) for record in records]
        stored = {"readings": np.asarray(judge.values(records)), "hits": np.asarray(hits)}
        keep(stored, file)
    readings, hits = list(stored["readings"]), list(stored["hits"])
    return Reference(mean_interval(readings), mean_interval(hits) if hits else None) if readings else None
