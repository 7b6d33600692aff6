"""What a checkpoint's shapes are: frozen descriptions of the decoder and the codec. Used by everything in `model`."""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class DecoderConfig:
    """MusicGen's transformer decoder.

    `text_width` is the width of the text encoder's states. Token `pad_id` (one past the vocabulary) stands where the
    delay pattern has no code and at the start of every stream.
    """

    width: int
    layers: int
    heads: int
    ffn_width: int
    codebooks: int
    vocab: int
    text_width: int
    max_positions: int = 2048

    @property
    def pad_id(self) -> int:
        return self.vocab

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def projects_text(self) -> bool:
        """Whether text states pass through a linear map first (transformers leaves it out where widths agree)."""
        return self.text_width != self.width


@dataclass(frozen=True)
class CodecConfig:
    """EnCodec: SEANet encoder and decoder with weight norm (folded), LSTM and residual vector quantizer, mono.

    `pad_mode` is "constant" or "reflect"; `ratios` are the decoder's upsampling factors in order.
    """

    sample_rate: int
    hidden: int
    filters: int
    residual_layers: int
    ratios: tuple[int, ...]
    kernel: int
    last_kernel: int
    residual_kernel: int
    dilation_growth: int
    compress: int
    lstm_layers: int
    codebooks: int
    codebook_size: int
    causal: bool
    pad_mode: str
    conv_shortcut: bool

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return prod(self.ratios)


@dataclass(frozen=True)
class MusicGenConfig:
    """A whole checkpoint. `sample_rate` and `frame_rate` in Hz, `hop` in samples per frame."""

    decoder: DecoderConfig
    codec: CodecConfig
    sample_rate: int = 32_000
    frame_rate: int = 50
    hop: int = 640
