"""EnCodec on folded weights: samples to codes and back, a whole clip at a time. `codec_stream` decodes it live.

Used by the streaming decoder (which reads the layers below), by concept learning and by the tests. Plain differentiable
modules; names follow transformers' EncodecModel, so its state dict loads once weight norm is folded.

Shapes: B clips, C channels of a layer, T frames, N samples, K codebooks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_live.model.config import CodecConfig


class Conv(nn.Module):
    """A convolution that pads itself: all on the left when causal, else on both sides, the odd one left."""

    def __init__(
        self, config: CodecConfig, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        self.pad_mode = config.pad_mode
        self.stride = stride
        self.dilation = dilation
        total = (kernel - 1) * dilation + 1 - stride
        self.pad_right = 0 if config.causal else total // 2
        self.pad_left = total - self.pad_right

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', ceil(N / stride)]"""
        missing = -x.shape[-1] % self.stride  # the last stride may be incomplete
        return self.conv(_pad(x, self.pad_left, self.pad_right + missing, self.pad_mode))  # type: ignore[no-any-return]


class TransposedConv(nn.Module):
    """An upsampling convolution, kernel 2 * stride, that trims its overhang: right when causal, else on both sides."""

    def __init__(self, config: CodecConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride)
        self.stride = stride
        self.trim_right = stride if config.causal else stride // 2
        self.trim_left = stride - self.trim_right

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', N * stride]"""
        y: Tensor = self.conv(x)  # [B, C', (N + 1) * stride]
        return y[..., self.trim_left : y.shape[-1] - self.trim_right]


class Lstm(nn.Module):
    """A one-way LSTM over time whose output is added to its input."""

    def __init__(self, config: CodecConfig, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, config.lstm_layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]"""
        steps = x.permute(2, 0, 1)  # [N, B, C]
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, which is the identity or a 1-tap convolution."""

    def __init__(self, config: CodecConfig, channels: int, dilation: int) -> None:
        super().__init__()
        inner = channels // config.compress
        self.block = nn.ModuleList(
            (
                nn.ELU(),
                Conv(config, channels, inner, config.residual_kernel, dilation=dilation),
                nn.ELU(),
                Conv(config, inner, channels, 1),
            )
        )
        self.shortcut = Conv(config, channels, channels, 1) if config.conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]"""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y  # type: ignore[no-any-return]


class LayerStack(nn.Module):
    """Layers in a row, named as in the checkpoint."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def encoder_layers(config: CodecConfig) -> list[nn.Module]:
    """SEANet encoder: samples [B, 1, N] -> latents [B, hidden, T]."""
    channels = config.filters
    layers: list[nn.Module] = [Conv(config, 1, channels, config.kernel)]
    for ratio in reversed(config.ratios):
        layers += [ResidualBlock(config, channels, config.dilation_growth**j) for j in range(config.residual_layers)]
        layers += [nn.ELU(), Conv(config, channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    return [*layers, Lstm(config, channels), nn.ELU(), Conv(config, channels, config.hidden, config.last_kernel)]


def decoder_layers(config: CodecConfig) -> list[nn.Module]:
    """SEANet decoder: latents [B, hidden, T] -> samples [B, 1, T * hop]."""
    channels = config.filters * 2 ** len(config.ratios)
    layers: list[nn.Module] = [Conv(config, config.hidden, channels, config.kernel), Lstm(config, channels)]
    for ratio in config.ratios:
        layers += [nn.ELU(), TransposedConv(config, channels, channels // 2, ratio)]
        channels //= 2
        layers += [ResidualBlock(config, channels, config.dilation_growth**j) for j in range(config.residual_layers)]
    return [*layers, nn.ELU(), Conv(config, channels, 1, config.last_kernel)]


class Quantizer(nn.Module):
    """Residual vector quantizer: codebook k codes what the ones before it left over. `codebooks` [K, codes, hidden]."""

    codebooks: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(config.codebooks, config.codebook_size, config.hidden))

    def encode(self, latents: Tensor) -> Tensor:
        """Nearest entry (Euclidean) per codebook: latents [B, hidden, T] -> codes int64 [B, K, T]."""
        residual = latents.transpose(1, 2).reshape(-1, latents.shape[1])  # [B * T, hidden]
        codes = []
        for codebook in self.codebooks:
            squares = residual.pow(2).sum(1, keepdim=True)  # [B * T, 1]
            distance = squares - 2 * residual @ codebook.t() + codebook.pow(2).sum(1)  # [B * T, codes]
            nearest = distance.argmin(dim=1)  # [B * T]
            residual = residual - F.embedding(nearest, codebook)  # [B * T, hidden]
            codes.append(nearest.view(latents.shape[0], -1))
        return torch.stack(codes, dim=1)  # [B, K, T]

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the entries: codes [B, K, T] -> latents [B, hidden, T]."""
        entries = [F.embedding(codes[:, k], codebook) for k, codebook in enumerate(self.codebooks)]
        return torch.stack(entries).sum(0).transpose(1, 2)  # [B, hidden, T]


class Codec(nn.Module):
    """The codec of one checkpoint; `rfm_live.model.checkpoint` fills the weights in."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LayerStack(encoder_layers(config))
        self.quantizer = Quantizer(config)
        self.decoder = LayerStack(decoder_layers(config))

    def encode(self, samples: Tensor) -> Tensor:
        """Samples [B, 1, N] at `sample_rate` -> codes int64 [B, K, T], T = ceil(N / hop)."""
        return self.quantizer.encode(self.encoder(samples))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> samples [B, 1, T * hop], peaks up to about 2."""
        return self.decoder(self.quantizer.decode(codes))  # type: ignore[no-any-return]


def _pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad time. A clip too short to reflect is first extended with zeros, which are cut off again, as EnCodec does."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode)
    extra = max(max(left, right) - x.shape[-1] + 1, 0)
    padded = F.pad(F.pad(x, (0, extra)), (left, right), mode)
    return padded[..., : padded.shape[-1] - extra]
