"""What a checkpoint's shapes are: frozen descriptions of the decoder and the codec. Used by everything in `model`."""

from dataclasses import dataclass
from math import prod

from rfm_live.errors import CheckpointError

MOST_POSITIONS = 1 << 14
_MOST_TABLE = (
    1 << 24
)  # positions times width: a table is made of them before any weight is read; MusicGen's has 2 ** 22


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
    projects_equal_widths: bool = False

    @property
    def pad_id(self) -> int:
        return self.vocab

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def projects_text(self) -> bool:
        """Whether text states pass through a linear map first: always in audiocraft; transformers leaves it out where
        widths agree."""
        return self.projects_equal_widths or self.text_width != self.width


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
    """A whole checkpoint. `sample_rate` and `frame_rate` in Hz, `hop` in samples per frame.

    `guidance` and `segment_seconds` are how it wishes to be played: classifier-free guidance, and the longest context
    that the training has seen.
    """

    decoder: DecoderConfig
    codec: CodecConfig
    sample_rate: int = 32_000
    frame_rate: int = 50
    hop: int = 640
    guidance: float = 3.0
    segment_seconds: float = 30.0


def joined_config(decoder: DecoderConfig, codec: CodecConfig, source: str) -> MusicGenConfig:
    """Put decoder and codec together. Raises `CheckpointError` where they do not fit; `source` names the file in it."""
    if codec.sample_rate % codec.hop:
        raise CheckpointError(f"{source}: audio_encoder: {codec.sample_rate} Hz is no multiple of {codec.hop} samples")
    if decoder.max_positions * decoder.width > _MOST_TABLE:
        sizes = f"{decoder.max_positions} positions of width {decoder.width}"
        raise CheckpointError(f"{source}: decoder has {sizes}, expected at most {_MOST_TABLE} numbers")
    for what, ours, theirs in (
        ("codebooks", decoder.codebooks, codec.codebooks),
        ("codes per codebook", decoder.vocab, codec.codebook_size),
    ):
        if ours != theirs:
            raise CheckpointError(f"{source}: decoder has {ours} {what}, audio_encoder has {theirs}")
    return MusicGenConfig(decoder, codec, codec.sample_rate, codec.sample_rate // codec.hop, codec.hop)
