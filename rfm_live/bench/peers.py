"""transformers' MusicGen as a peer: the time of every step of its `generate`, and steering by forward hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rfm_live.bench.timing import Floats, Stopwatch


def generate_laps(reference: Any, tokens: Tensor, steps: int, guidance: float, top_k: int) -> Floats:
    """Time `steps` steps of sampling -> laps [steps, 2]. The first step, which reads the text, is not counted."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    watch = Stopwatch(tokens.device)

    class Clock(StoppingCriteria):  # type: ignore[misc]
        """Asked after every step."""

        def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
            watch.lap()
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    with torch.inference_mode():
        reference.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            top_k=top_k,
            guidance_scale=guidance,
            max_new_tokens=steps + 1,
            stopping_criteria=StoppingCriteriaList([Clock()]),
        )
    return watch.laps()[1 : steps + 1]


@contextmanager
def steered_by_hooks(reference: Any, directions: Tensor, strength: float) -> Iterator[None]:
    """Add `strength` times every direction [C, L, D] to the blocks' outputs meanwhile: one hook a concept and block."""

    def hook_for(direction: Tensor) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + strength * direction, *output[1:])
            return output + strength * direction

        return hook

    handles = [
        layer.register_forward_hook(hook_for(direction))
        for concept in directions
        for layer, direction in zip(reference.decoder.model.decoder.layers, concept, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
