"""Layer weights: which share of a concept's calibrated push every block gets, by how well its probe reads there.

Used by the steering plan when a knob of theirs is turned, not per frame. The forms are MusicRFM's (Zhao et al. 2025)
with s^ the probe's scores, min-max normalised over the blocks:

uniform      w0 everywhere                     exponential  w0 * s^ ** (1 / kappa)
top_k        w0 at the k best blocks, else 0   linear       w0 * s^
"""

import numpy as np
import numpy.typing as npt

FORMS = ("uniform", "top_k", "exponential", "linear")

Floats = npt.NDArray[np.float64]


def layer_weights(form: str, scores: npt.NDArray[np.floating], k: int, kappa: float, w0: float) -> Floats:
    """Weights [L] of one concept with probe `scores` [L]. `k` from 1 (more than L is L), `kappa` above 0 up to 1.

    Of equal scores the lower block comes first; where all scores are equal s^ is 1. Raises ValueError for another form.
    """
    match form:
        case "uniform":
            return np.full(len(scores), w0)
        case "top_k":
            weights = np.zeros(len(scores))
            weights[np.argsort(-scores, kind="stable")[:k]] = w0
            return weights
        case "exponential":
            return np.asarray(w0 * _normalised(scores) ** (1.0 / kappa))
        case "linear":
            return w0 * _normalised(scores)
    raise ValueError(f"layer weights {form!r} are none of {', '.join(FORMS)}")


def _normalised(scores: npt.NDArray[np.floating]) -> Floats:
    exact = scores.astype(np.float64)
    low, high = exact.min(initial=np.inf), exact.max(initial=-np.inf)
    return (exact - low) / (high - low) if high > low else np.ones(len(scores))
