"""What a bank's concepts can and cannot do, in plain words and as JSON. Used by `rfm-live learn` and `rfm-live bank`.

numpy only: describing a bank loads no model.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from rfm_live.concepts.geometry import closest_pairs
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import ConceptCard

_BEST = 3
_PAIRS = 5


def best_layers(bank: ConceptBank, index: int) -> list[int]:
    """The blocks at which concept `index` is told apart best, up to three, the best first."""
    return [int(layer) for layer in np.argsort(-bank.scores[index], kind="stable")[:_BEST]]


def push_share(bank: ConceptBank, index: int) -> float | None:
    """How long the push at knob 1.0 is, mean over the blocks, in lengths of the hidden state; None when unknown."""
    if bank.residual_norm is None:
        return None
    pushes = bank.unit[index] * bank.layer_weights[index]
    return float((pushes / np.maximum(bank.residual_norm[index], 1e-9)).mean())


def verdict(card: ConceptCard) -> str:
    """One line: what turning the knob was heard to do."""
    effect = card.effect
    if effect is None:
        return "nobody has listened: what the knob does is unknown"
    moved = (
        f"{effect.meter} {effect.at_zero:.4g} -> {effect.at_plus:.4g} {effect.unit} at 1, {effect.at_minus:.4g} at -1"
    )
    compared = f"random push {effect.at_random:.4g}"
    if not effect.is_heard:
        return f"cannot be heard to move the music: {moved}, {compared}"
    by_itself = "" if effect.is_external else "; read by its own probe, no external meter fits"
    return f"moves the music: {moved}, {compared}{by_itself}"


def as_json(bank: ConceptBank) -> dict[str, Any]:
    """Everything about a bank but its directions."""
    concepts = []
    for index, (name, card) in enumerate(zip(bank.names, bank.cards, strict=True)):
        concepts.append(
            {
                "name": name,
                **asdict(card),
                "scores": _rounded(bank.scores[index]),
                "best_layers": best_layers(bank, index),
                "unit": float(bank.unit[index]),
                "layer_weights": _rounded(bank.layer_weights[index]),
                "push_in_hidden_state_lengths": push_share(bank, index),
                "gate": float(bank.gate[index]),
                "period": int(bank.period[index]),
                "verdict": verdict(card),
            }
        )
    return {
        "checkpoint_sha256": bank.checkpoint_sha256,
        "site": bank.site,
        "layers": bank.layers,
        "width": bank.width,
        "concepts": concepts,
        "closest": closest(bank),
    }


def closest(bank: ConceptBank) -> list[dict[str, Any]]:
    """The pairs of concepts whose directions lie nearest to one line, each at its worst block: knobs that interfere."""
    pairs = closest_pairs(bank.directions, _PAIRS) if len(bank.names) > 1 else []
    return [
        {
            "concepts": [bank.names[pair.first], bank.names[pair.second]],
            "layer": pair.layer,
            "cosine": round(pair.cosine, 3),
        }
        for pair in pairs
    ]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
