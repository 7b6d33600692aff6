"""Re-orthogonalised directions, as linear maps of coefficients. Used by the steering plan; numpy only.

Several concepts that overlap push each other's readings. Each method replaces the directions q_m of a block by
p_m = sum_k A[m, k] q_k, so that a push sum_m c_m p_m is one by the old directions with coefficients c A. All that A
needs is the Gram matrix G of the directions, so the plan never touches a vector of width D.

gram_schmidt   p_m is q_m less its part along the directions before it, of unit length: the first keeps its own
least_squares  the orthonormal set that lies nearest to the directions, A = G^(-1/2) (Loewdin 1950): none goes first
dual           <p_m, q_k> is 1 for m = k and else 0, A = G^(-1): each knob moves its own reading by what it says, and no
               other; overlapping concepts need longer pushes for it
"""

import numpy as np
import numpy.typing as npt

METHODS = ("off", "gram_schmidt", "least_squares", "dual")

_SMALLEST = 0.01
"""Squared length of what is left of a direction, or eigenvalue of G, below which it counts as dependent on the others
and is dropped: the longest push is ten times the plain one."""

Floats = npt.NDArray[np.float64]


def gram_matrices(directions: npt.NDArray[np.floating]) -> Floats:
    """Inner products [L, C, C] of `directions` [C, L, D] at every block."""
    by_layer = np.ascontiguousarray(directions.transpose(1, 0, 2), dtype=np.float64)  # [L, C, D]
    return np.asarray(by_layer @ by_layer.transpose(0, 2, 1))


def orthogonal_map(method: str, gram: Floats) -> Floats:
    """A [L, C, C] of `method`, one of METHODS, for directions with inner products `gram` [L, C, C], in their order.

    Raises ValueError for another method.
    """
    match method:
        case "off":
            return np.broadcast_to(np.eye(gram.shape[1]), gram.shape).copy()
        case "gram_schmidt":
            return _gram_schmidt(gram)
        case "least_squares":
            return _powered(gram, -0.5)
        case "dual":
            return _powered(gram, -1.0)
    raise ValueError(f"orthogonalisation {method!r} is none of {', '.join(METHODS)}")


def _gram_schmidt(gram: Floats) -> Floats:
    rows = np.broadcast_to(np.eye(gram.shape[1]), gram.shape).copy()  # [L, C, C]
    for index in range(1, gram.shape[1]):
        earlier = rows[:, :index]  # [L, index, C]
        overlap = earlier @ gram[:, :, index, None]  # [L, index, 1]
        rows[:, index] -= (overlap * earlier).sum(axis=1)
        squared = (rows[:, index, None] @ gram @ rows[:, index, :, None])[:, :, 0]  # [L, 1]
        kept = squared > _SMALLEST
        rows[:, index] = np.where(kept, rows[:, index] / np.sqrt(np.where(kept, squared, 1.0)), 0.0)
    return rows


def _powered(gram: Floats, power: float) -> Floats:
    """A power of symmetric matrices [L, C, C] over the eigenvalues that are large enough."""
    values, vectors = np.linalg.eigh(gram)  # [L, C], [L, C, C]
    kept = values > _SMALLEST
    scaled = np.where(kept, np.where(kept, values, 1.0) ** power, 0.0)
    return np.asarray((vectors * scaled[:, None]) @ vectors.transpose(0, 2, 1))
