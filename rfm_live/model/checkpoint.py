"""Read a MusicGen checkpoint in the transformers layout: config.json and safetensors, into our modules.

Used at start-up by the engine process, by concept learning and by the tests. The configuration is judged in
`layout.py`; here the tensors are renamed, fused and folded, and every missing, foreign or misshapen key is named.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rfm_live.errors import CheckpointError
from rfm_live.model.codec import Codec
from rfm_live.model.config import DecoderConfig, MusicGenConfig
from rfm_live.model.decoder import Decoder
from rfm_live.model.layout import read_config
from rfm_live.model.text import TextEncoder

_DECODER = "decoder.model.decoder."
_CODEC = "audio_encoder."
_TEXT = "text_encoder."
_PROJECTION = "enc_to_dec_proj."
# Weight norm's magnitude and direction: torch's parametrization, and the older form in published files.
_NORM_FORMS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
# Tables that are computed, and statistics of training that decoding never reads.
_IGNORED = (".embed_positions.weights", ".codebook.inited", ".codebook.cluster_size", ".codebook.embed_avg")


@dataclass
class MusicGen:
    """A loaded checkpoint. Weights do not require gradients."""

    config: MusicGenConfig
    decoder: Decoder
    codec: Codec
    path: Path

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight files, in order of their names: what a concept bank is bound to."""
        digest = hashlib.sha256()
        for file in weight_files(self.path):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def text_encoder(self) -> TextEncoder:
        """The checkpoint's text encoder, loaded at the first call (seconds) and kept. Raises `CheckpointError`."""
        return self._text_encoder

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return load_text_encoder(self.path)


def load_text_encoder(path: Path) -> TextEncoder:
    """Load only the text encoder of a checkpoint folder (seconds). Raises `CheckpointError`."""
    section = _read_json(path / "config.json").get("text_encoder")
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{path / 'config.json'}: text_encoder is {section!r}, expected an object")
    tensors = _read_tensors(path, (_TEXT,))
    return TextEncoder(path, section, {key[len(_TEXT) :]: tensor.float() for key, tensor in tensors.items()})


def load_checkpoint(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> MusicGen:
    """Load a checkpoint folder; the decoder in `dtype`, the codec always in fp32.

    Raises `CheckpointError`: a file is missing or broken, the model is of an unsupported kind, a key is missing,
    unexpected or of another shape than the configuration says.
    """
    path = Path(path)
    source = path / "config.json"
    config = read_config(_read_json(source), str(source))
    tensors = _read_tensors(path, ("decoder.", _CODEC, _PROJECTION))
    with torch.device("meta"):
        decoder, codec = Decoder(config.decoder), Codec(config.codec)
    _fill(decoder, _decoder_weights(tensors, config.decoder, path), path)
    _fill(codec, _codec_weights(tensors, config, path), path)
    if tensors:
        raise CheckpointError(f"{path}: unexpected key '{min(tensors)}' ({len(tensors)} in all)")
    positions = decoder.positions
    decoder = decoder.to(device, dtype)
    decoder.positions = positions.to(device)  # stays fp32
    return MusicGen(config, decoder.eval(), codec.to(device).eval(), path)


def weight_files(path: Path) -> list[Path]:
    """The checkpoint's safetensors files, sorted by name: one, or the shards that the index lists."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(f"{path}: no model.safetensors")
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: no weight_map")
    # A shard is a plain name beside its index; anything else in there is not ours to open.
    return [path / Path(str(name)).name for name in sorted(set(names.values()))]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return content


def _read_tensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Read the tensors whose names start with one of `prefixes`, but for the ignored ones."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as content:
                for key in content.keys():
                    if key.startswith(prefixes) and not key.endswith(_IGNORED):
                        tensors[key] = content.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
    return tensors


def _take(tensors: dict[str, Tensor], key: str, path: Path) -> Tensor:
    """Remove a tensor from the table and answer it in fp32."""
    if key not in tensors:
        raise CheckpointError(f"{path}: key '{key}' is missing")
    return tensors.pop(key).float()


def _decoder_weights(tensors: dict[str, Tensor], config: DecoderConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield our decoder's names and tensors, taken out of `tensors`: fused where transformers keeps them apart."""

    def joined(*keys: str) -> Tensor:
        parts = [_take(tensors, key, path) for key in keys]
        if len({part.shape[1:] for part in parts}) > 1:
            raise CheckpointError(f"{path}: keys '{keys[0]}' and its neighbours differ in width")
        return torch.cat(parts)

    codebooks = range(config.codebooks)
    yield "embedding.weight", joined(*(f"{_DECODER}embed_tokens.{k}.weight" for k in codebooks))
    yield "heads.weight", joined(*(f"decoder.lm_heads.{k}.weight" for k in codebooks))
    if config.projects_text:
        for kind in ("weight", "bias"):
            yield f"text_projection.{kind}", _take(tensors, f"{_PROJECTION}{kind}", path)
    norms = {"out_norm": "layer_norm"}
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"{_DECODER}layers.{layer}"
        yield f"{ours}.qkv.weight", joined(*(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv"))
        yield f"{ours}.cross_kv.weight", joined(*(f"{theirs}.encoder_attn.{part}_proj.weight" for part in "kv"))
        for our_name, their_name in (
            ("self_out", "self_attn.out_proj"),
            ("cross_q", "encoder_attn.q_proj"),
            ("cross_out", "encoder_attn.out_proj"),
            ("ffn_in", "fc1"),
            ("ffn_out", "fc2"),
        ):
            yield f"{ours}.{our_name}.weight", _take(tensors, f"{theirs}.{their_name}.weight", path)
        norms[f"{ours}.self_norm"] = f"layers.{layer}.self_attn_layer_norm"
        norms[f"{ours}.cross_norm"] = f"layers.{layer}.encoder_attn_layer_norm"
        norms[f"{ours}.ffn_norm"] = f"layers.{layer}.final_layer_norm"
    for our_name, their_name in norms.items():
        for kind in ("weight", "bias"):
            yield f"{our_name}.{kind}", _take(tensors, f"{_DECODER}{their_name}.{kind}", path)


def _codec_weights(tensors: dict[str, Tensor], config: MusicGenConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield our codec's names and tensors, taken out of `tensors`, with weight norm folded."""
    embeddings = [
        _take(tensors, f"{_CODEC}quantizer.layers.{k}.codebook.embed", path) for k in range(config.codec.codebooks)
    ]
    if len({embedding.shape for embedding in embeddings}) > 1:
        raise CheckpointError(f"{path}: keys '{_CODEC}quantizer.layers.*.codebook.embed' differ in shape")
    yield "quantizer.codebooks", torch.stack(embeddings)
    parts = tuple(f"{_CODEC}{part}." for part in ("encoder", "decoder"))
    for key in sorted(key for key in tensors if key.startswith(parts)):
        for magnitude, direction in _NORM_FORMS:
            if key.endswith(magnitude):
                layer = key.removesuffix(magnitude)
                weight = fold_weight_norm(_take(tensors, key, path), _take(tensors, layer + direction, path))
                yield f"{layer}.weight"[len(_CODEC) :], weight
                break
            if key.endswith(direction):
                break  # taken with its magnitude; a direction alone stays and is reported as unexpected
        else:
            yield key[len(_CODEC) :], _take(tensors, key, path)


def fold_weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """w = g * v / |v|, the norm over all axes but the first (Salimans and Kingma 2016, equation 2)."""
    axes = tuple(range(1, direction.dim()))
    norm: Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * (magnitude / norm)


def _fill(module: nn.Module, weights: Iterator[tuple[str, Tensor]], path: Path) -> None:
    """Put the tensors in place of the module's empty ones, each checked against the shape it should have."""
    expected: Mapping[str, Tensor] = module.state_dict()
    given: dict[str, Tensor] = {}
    kind = type(module).__name__.lower()
    for name, tensor in weights:
        if name not in expected:
            raise CheckpointError(f"{path}: unexpected {kind} key '{name}'")
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, expected {list(expected[name].shape)}"
            raise CheckpointError(f"{path}: {kind} key '{name}' has shape {shapes}")
        given[name] = tensor
    missing = sorted(set(expected) - set(given))
    if missing:
        raise CheckpointError(f"{path}: {kind} key '{missing[0]}' is missing ({len(missing)} in all)")
    module.load_state_dict(given, assign=True)
    module.requires_grad_(False)
