"""A tiny bank, setup and reader for the tests of experiments: random directions, clips of two seconds."""

from pathlib import Path

import numpy as np

from rfm_live.concepts.clips import Samples
from rfm_live.experiments.conditions import Clips, Prompt, Record
from rfm_live.experiments.setup import Setup
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

CONCEPTS = ("note_c", "note_g", "chord_minor", "brightness")
CLIPS = Clips((Prompt("calm piano"),), (5000, 5001), 2.0, 0.4, 0.2)


def tiny_bank(model: MusicGen, names: tuple[str, ...] = CONCEPTS, seed: int = 0) -> ConceptBank:
    """Random unit directions; knob 1 pushes by 3 at every block, and the probes' scores differ."""
    config, rng = model.config.decoder, np.random.default_rng(seed)
    directions = rng.standard_normal((len(names), config.layers, config.width)).astype(np.float32)
    ones = np.ones((len(names), config.layers), np.float32)
    return ConceptBank(
        names=names,
        directions=directions / np.linalg.norm(directions, axis=-1, keepdims=True),
        scores=rng.uniform(0.6, 0.9, ones.shape).astype(np.float32),
        mean=ones,
        spread=ones / 2,
        unit=np.full(len(names), 3.0, np.float32),
        layer_weights=ones,
        gate=np.ones(len(names), np.float32),
        period=np.ones(len(names), np.int64),
        checkpoint_sha256=model.sha256,
        other_mean=0 * ones,
        other_spread=ones / 2,
        residual_norm=10 * ones,
    )


def tiny_setup(model: MusicGen, cache: Path, concepts: tuple[str, ...] = CONCEPTS) -> Setup:
    return Setup(model, tiny_bank(model), concepts, CLIPS, cache, is_quick=True)


class CountingReader:
    """Keeps the samples' sum and length, counts what it reads, and is interrupted before clip `breaks_at`."""

    identity = "counting"

    def __init__(self, breaks_at: int | None = None) -> None:
        self.read_clips, self._breaks_at = 0, breaks_at

    def read(self, samples: Samples) -> Record:
        if self.read_clips == self._breaks_at:
            raise KeyboardInterrupt
        self.read_clips += 1
        return {"sum": np.asarray([samples.sum()]), "length": np.asarray([len(samples)])}
