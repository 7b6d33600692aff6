"""How well the embedded checkpoint's blocks tell which note they hear: the training's truest meter. For `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.meters import interval
from rfm_live.concepts.probes import Ridge, learn_direction
from rfm_live.concepts.splits import hold_out
from rfm_live.concepts.states import Reading, read_points
from rfm_live.embedded.composer import INSTRUMENTS, PITCH_CLASSES, note_study
from rfm_live.embedded.music_meters import rendered
from rfm_live.model.checkpoint import MusicGen

STUDY_FRAMES = 200
_STUDIES, _BATCH = 23, 8


def note_meters(model: MusicGen, per_instrument: int = 3) -> dict[str, object]:
    """AUC per block of telling each of the 12 pitch classes from the others on held-out instruments: studies of a note
    by every instrument, states averaged over a study, ridge regression on the label; mean and interval over notes.
    """
    asked = [(note, turn) for note in range(12) for turn in range(per_instrument * len(INSTRUMENTS))]
    instruments = [INSTRUMENTS[turn % len(INSTRUMENTS)] for _, turn in asked]
    pieces = [
        note_study(np.random.default_rng([_STUDIES, note, turn]), STUDY_FRAMES, note, instrument)
        for (note, turn), instrument in zip(asked, instruments, strict=True)
    ]
    clips, points = rendered(pieces), []
    for start in range(0, len(clips), _BATCH):
        samples = torch.from_numpy(np.stack(clips[start : start + _BATCH]))
        points.append(read_points(model, samples, Reading()).mean.numpy())
    notes = [note for note, _ in asked]
    is_held = hold_out([one.name for one in instruments], notes)
    aucs = _aucs(np.concatenate(points), notes, is_held)
    best = int(aucs.mean(axis=0).argmax())
    held = sorted({one.name for one, is_kept in zip(instruments, is_held, strict=True) if is_kept})
    found: dict[str, object] = {f"block_{layer}": interval(list(aucs[:, layer])) for layer in range(aucs.shape[1])}
    weakest = PITCH_CLASSES[int(aucs[:, best].argmin())]
    return found | {
        "weakest_note_in_the_best_block": [weakest, round(float(aucs[:, best].min()), 4)],
        "held_out_instruments": held,
    }


def _aucs(
    points: npt.NDArray[np.float32], notes: Sequence[int], is_held: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """AUC [12, L] on the held-out rows of points [N, L, D]."""
    table = np.empty((12, points.shape[1]))
    for note in range(12):
        labels = np.asarray([float(one == note) for one in notes])
        for layer in range(points.shape[1]):
            x = points[:, layer]
            found = learn_direction(Ridge(), x[~is_held], labels[~is_held], x[is_held], labels[is_held])
            table[note, layer] = found.score
    return table
