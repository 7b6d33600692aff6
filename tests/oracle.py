"""transformers' MusicGen as the oracle: what it generates greedily. Used by the parity tests."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def greedy_music(reference: Any, tokens: Mapping[str, Tensor], frames: int, guidance: float) -> tuple[Tensor, Tensor]:
    """Generate after the text `tokens` -> codes [K, T] as the codec is given them, and samples [T * hop].

    A clip ends with pad columns, so its last K - 1 frames hear another context than those of an endless stream: T is
    `frames` and these.
    """
    given: list[Tensor] = []
    decode = reference.audio_encoder.decode

    def listening(codes: Tensor, *args: Any, **options: Any) -> Any:
        given.append(codes)  # [1, B, K, T]
        return decode(codes, *args, **options)

    ending = reference.decoder.num_codebooks - 1
    reference.audio_encoder.decode = listening
    try:
        samples = reference.generate(
            **tokens, do_sample=False, guidance_scale=guidance, max_new_tokens=frames + 2 * ending
        )
    finally:
        reference.audio_encoder.decode = decode
    return given[0][0, 0], samples[0, 0]
