"""How well a reading tells a label: area under the ROC curve, or R2. Used by concept learning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating]


def auc(positives: Numbers, negatives: Numbers) -> npt.NDArray[np.float64]:
    """Area under the ROC curve per column, 0..1: P(positive > negative), ties count half (Mann and Whitney 1947).

    `positives` [P, L] and `negatives` [N, L] are readings; the result is [L]. By rank, in O((P + N) log N) a column.
    """
    columns = []
    for own, other in zip(positives.T, np.sort(negatives, axis=0).T, strict=True):
        below, not_above = np.searchsorted(other, own, side="left"), np.searchsorted(other, own, side="right")
        columns.append((below.sum() + not_above.sum()) / (2 * len(own) * len(other)))
    return np.asarray(columns, np.float64)


def r_squared(readings: Numbers, values: Numbers) -> float:
    """Coefficient of determination of `readings` [N] or [N, O] for `values` of that shape: 1 is perfect, 0 the mean.

    R2 = 1 - sum (value - reading)^2 / sum (value - mean of its column)^2, summed over all outputs.

    Raises:
        ValueError: the values do not vary.
    """
    spread = float(np.square(values - values.mean(axis=0)).sum())
    if spread == 0.0:
        raise ValueError(f"all {len(values)} values are equal, expected values that vary")
    return 1.0 - float(np.square(values - readings).sum()) / spread


def is_binary(labels: Numbers) -> bool:
    """Whether every label is 0 or 1, so that AUC is the score and not R2."""
    return bool(np.isin(labels, (0.0, 1.0)).all())


def score(readings: Numbers, labels: Numbers) -> float:
    """AUC of `readings` [N, O] where all labels [N, O] are 0 or 1 (mean over the outputs), else R2.

    Raises:
        ValueError: an output has labels of one class only, or values that do not vary.
    """
    if not is_binary(labels):
        return r_squared(readings, labels)
    areas = []
    for output in range(labels.shape[1]):
        is_own = labels[:, output] == 1.0
        if is_own.all() or not is_own.any():
            raise ValueError(
                f"output {output} has {int(is_own.sum())} of {len(is_own)} labels 1, expected both classes"
            )
        areas.append(float(auc(readings[is_own, output, None], readings[~is_own, output, None])[0]))
    return float(np.mean(areas))
