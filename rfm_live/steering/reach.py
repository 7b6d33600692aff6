"""How far a bank's knobs reach: coefficients per block at knob 1, and how the acting concepts' pushes lie together.

Used by the steering plan when a knob is turned or another concept begins to act, not per frame. numpy only.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.frame import Coefficients, FrameSteering
from rfm_live.steering.knobs import MODES, ROWS
from rfm_live.steering.layer_weights import FORMS, layer_weights
from rfm_live.steering.orthogonal import METHODS, gram_matrices, orthogonal_map

LEVEL_SPREADS = 2.0
"""In a bank that knows no projections of clips without a concept, level 0 and 1 lie so many standard deviations below
and above the mean; in others they are the means of the clips without and with it."""

_LAYER_NUMBERS = ("layers_k", "layers_kappa", "layers_w0")

Floats = npt.NDArray[np.float64]


class Reach:
    """A bank's lengths and angles under the present knobs: `turn` takes the knobs over, `arrange` who acts.

    `strengths` [C, L] is every coefficient at knob 1, before concepts are mixed: the bank's length in hidden units for
    a push, that length over the hidden state's for a blend (1 in a bank that does not know the latter), 1 for a clamp,
    each times the layer weight.
    """

    strengths: Floats

    def __init__(self, bank: ConceptBank) -> None:
        self._scores = bank.scores
        self._full = full = (bank.unit[:, None] * bank.layer_weights).astype(np.float64)  # [C, L]
        without, with_ = bank.other_mean, bank.mean
        if without is None:
            without, with_ = bank.mean - LEVEL_SPREADS * bank.spread, bank.mean + LEVEL_SPREADS * bank.spread
        self._level_ends = without.astype(np.float64), with_.astype(np.float64)  # [C, L] each
        whole = (full != 0.0).astype(np.float64)  # [C, L]
        blend = whole if bank.residual_norm is None else full / np.maximum(bank.residual_norm, 1e-6)
        self._by_mode = np.stack([full, blend, whole])  # [modes, C, L]
        self._gram = gram_matrices(bank.directions)  # [L, C, C]

    def turn(self, knobs: Mapping[str, Floats], overall: Mapping[str, float]) -> None:
        """Go by these knobs of the plan's state from here on."""
        mode, rows = knobs["mode"], knobs["rows"]
        weights = self._weights(knobs, overall)  # [C, L]
        self._lengths = weights * self._full
        self.strengths = weights * self._by_mode[mode.astype(np.intp), np.arange(len(mode))]
        without, with_ = self._level_ends
        self._mode, self._is_text_only = mode.astype(np.int32), rows == ROWS.index("conditional")
        self._target = (without + knobs["target"][:, None] * (with_ - without)).astype(np.float32)
        self._method = METHODS[int(overall["orthogonal"])]
        # Only pushes into the same rows are mixed; every other concept is a group of its own.
        self._group = np.where(mode == MODES.index("add"), -1.0 - rows, np.arange(len(mode)))

    def _weights(self, knobs: Mapping[str, Floats], overall: Mapping[str, float]) -> Floats:
        """The layer weights w [C, L] that the concept's own form asks for, or the overall one."""
        weights = np.ones_like(self._full)
        for concept in range(len(weights)):
            own = int(knobs["layers"][concept])
            source = {field: knobs[field][concept] for field in _LAYER_NUMBERS} if own else overall
            form = FORMS[own - 1 if own else int(overall["layers"])]
            k, kappa, w0 = (float(source[field]) for field in _LAYER_NUMBERS)
            weights[concept] = layer_weights(form, self._scores[concept], int(k), kappa, w0)
        return weights

    def arrange(self, order: npt.NDArray[np.intp]) -> None:
        """Let the concepts `order` [N] act from here on, those that go first in front."""
        self._order = order
        mode, is_text_only = self._mode[order], self._is_text_only[order]
        self._exceptions = (
            self._mode if mode.any() else None,
            self._target if (mode == MODES.index("clamp")).any() else None,
            self._is_text_only if is_text_only.any() else None,
        )
        self._new = None
        if self._method != "off" and len(np.unique(self._group[order])) < len(order):
            together = self._group[order, None] == self._group[order]  # [N, N]
            self._new = orthogonal_map(self._method, self._acting_gram() * together)  # [L, N, N]

    def _acting_gram(self) -> Floats:
        """Inner products [L, N, N] of the acting concepts' directions."""
        return self._gram[:, self._order[:, None], self._order]

    def frame_steering(self, coefficients: Coefficients) -> FrameSteering:
        """Say with `coefficients` [C, L] in which modes and rows they act; a plain push where all acting ones push."""
        mode, target, is_text_only = self._exceptions
        return FrameSteering(coefficients, mode=mode, target=target, is_text_only=is_text_only)

    def mixing(self) -> Floats | None:
        """What knob 1 of every acting concept adds to all coefficients, re-orthogonalised: [N, C, L].

        None when each of them acts on its own coefficients only.
        """
        if self._new is None:
            return None
        mixed = np.zeros((len(self._order), *self._full.shape))
        mixed[:, self._order] = (self._new * self.strengths[self._order].T[:, :, None]).transpose(1, 2, 0)
        return mixed

    def overlaps(self) -> Floats:
        """Inner products [N, N] of the acting concepts' pushes over all blocks, as they are mixed.

        In units of the bank's full push, so a concept with layer weights of 1 has 1 with itself, and the summed push
        has the length sqrt(eta @ overlaps @ eta) for knobs eta [N].
        """
        gram, order = self._acting_gram(), self._order
        if self._new is not None:
            gram = self._new @ gram @ self._new.transpose(0, 2, 1)
        full = np.linalg.norm(self._full[order], axis=1)  # [N]
        lengths = self._lengths[order] / np.where(full > 0.0, full, 1.0)[:, None]  # [N, L]
        return np.asarray((gram * lengths.T[:, :, None] * lengths.T[:, None]).sum(axis=0))
