"""A MusicGen checkpoint, in transformers' layout or audiocraft's, as our modules.

Used at start-up by the engine process, by the commands, by concept learning and by the tests. `open_checkpoint` judges
everything but the numbers; `load_checkpoint` reads them. Nothing in a file is ever run, unless it is trusted by name.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from rfm_live.errors import CheckpointError
from rfm_live.model import audiocraft_layout, transformers_layout
from rfm_live.model.assembly import ModuleSource, check, fill
from rfm_live.model.audiocraft_config import read_codec, resolved
from rfm_live.model.codec import Codec, TransposedConv
from rfm_live.model.config import CodecConfig, MusicGenConfig, joined_config
from rfm_live.model.decoder import Decoder
from rfm_live.model.documents import read_json
from rfm_live.model.section import Section
from rfm_live.model.stored import read_weights, weight_files
from rfm_live.model.text import TextEncoder, read_text_encoder
from rfm_live.model.torch_file import TorchFile

_READ_BYTES = 1 << 20


@dataclass
class MusicGen:
    """A loaded checkpoint. Weights do not require gradients. `path` is its folder, None for a model from memory."""

    config: MusicGenConfig
    decoder: Decoder
    codec: Codec
    path: Path | None
    make_hash: Callable[[], str]
    make_text_encoder: Callable[[], TextEncoder]

    @cached_property
    def sha256(self) -> str:
        """What a concept bank is bound to: the hash of the weight files one after the other, in order of their names.

        Of a model from memory: of its tensors, see `objects.py`.
        """
        return self.make_hash()

    def text_encoder(self) -> TextEncoder:
        """The checkpoint's text encoder, loaded at the first call (seconds) and kept. Raises `CheckpointError`."""
        return self._text_encoder

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return self.make_text_encoder()


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose names, shapes and types are right, its numbers still in the `files`.

    `layout` is "transformers" or "audiocraft"; `decoder` and `codec` say where each parameter comes from.
    `text_model` names the text encoder of audiocraft's layout, which lies elsewhere; None where it is in the files.
    """

    path: Path
    layout: str
    config: MusicGenConfig
    decoder: ModuleSource
    codec: ModuleSource
    files: tuple[Path, ...]
    text_model: str | None = None


def load_checkpoint(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    codec_dtype: torch.dtype = torch.float32,
    trust_pickle: bool = False,
) -> MusicGen:
    """Load a checkpoint folder; the decoder in `dtype`, the codec in `codec_dtype`.

    `trust_pickle` lets `.bin` files run code while they are read: only for files whose origin you know.

    Raises `CheckpointError`: a file is missing or broken, the model is of an unsupported kind, a key is missing,
    unexpected, of another shape or type than the configuration says, or holds NaN.
    """
    opened = open_checkpoint(Path(path), trust_pickle)
    decoder, codec = build(opened.config, opened.decoder, opened.codec, device, dtype, codec_dtype)
    return MusicGen(
        opened.config,
        decoder,
        codec,
        opened.path,
        lambda: hash_files(opened.files),
        lambda: load_text_encoder(opened.path, trust_pickle),
    )


def build(
    config: MusicGenConfig,
    decoder_source: ModuleSource,
    codec_source: ModuleSource,
    device: torch.device | str,
    dtype: torch.dtype,
    codec_dtype: torch.dtype,
) -> tuple[Decoder, Codec]:
    """Make the modules and read their weights. Raises `CheckpointError`."""
    with torch.device("meta"):
        decoder, codec = Decoder(config.decoder), Codec(config.codec)
    fill(decoder, decoder_source, device, dtype)
    fill(codec, codec_source, device, codec_dtype)
    return decoder.to(device).eval(), codec.eval()  # moves the decoder's tables, which stay fp32


def open_checkpoint(path: Path, trust_pickle: bool = False) -> OpenCheckpoint:
    """Judge a checkpoint folder without reading its weights. Raises `CheckpointError`."""
    if (path / audiocraft_layout.LANGUAGE_MODEL).is_file() and not (path / "config.json").is_file():
        opened = _open_audiocraft(path, trust_pickle)
    else:
        opened = _open_transformers(path, trust_pickle)
    judge(opened.config, opened.decoder, opened.codec)
    return opened


def judge(config: MusicGenConfig, decoder_source: ModuleSource, codec_source: ModuleSource) -> None:
    """Hold names, shapes and types of what is stored against the configuration. Raises `CheckpointError`."""
    _check_size(decoder_source, config)
    with torch.device("meta"):
        decoder, codec = Decoder(config.decoder), Codec(config.codec)
    check(decoder, decoder_source)
    check(codec, codec_source)


def load_text_encoder(path: Path, trust_pickle: bool = False) -> TextEncoder:
    """Load only the text encoder of a checkpoint folder (seconds). Raises `CheckpointError`."""
    if (path / "config.json").is_file() or not (path / audiocraft_layout.LANGUAGE_MODEL).is_file():
        source = path / "config.json"
        section = Section(str(source), read_json(source)).section("text_encoder")
        prefix = transformers_layout.TEXT
        weights = {k[len(prefix) :]: t for k, t in read_weights(path, trust_pickle).items() if k.startswith(prefix)}
        return read_text_encoder(path, section.content, weights)
    _, model = audiocraft_layout.open_language_model(path, trust_pickle)
    folder = audiocraft_layout.companion(path, model.text_model, "text encoder")
    section = Section(str(folder / "config.json"), read_json(folder / "config.json"))
    section.require("model_type", None, "t5")
    section.require("d_model", None, model.decoder.text_width)
    parts = ("shared.", "encoder.")
    weights = {key: tensor for key, tensor in read_weights(folder, trust_pickle).items() if key.startswith(parts)}
    return read_text_encoder(folder, section.content, weights)


def hash_files(files: tuple[Path, ...]) -> str:
    """sha256 of the files' bytes, one after the other. Raises `CheckpointError`."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                while block := stream.read(_READ_BYTES):
                    digest.update(block)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _open_transformers(path: Path, trust_pickle: bool) -> OpenCheckpoint:
    source = path / "config.json"
    config = transformers_layout.read_config(read_json(source), str(source))
    weights = read_weights(path, trust_pickle)
    return OpenCheckpoint(
        path,
        "transformers",
        config,
        transformers_layout.decoder_source(weights, config.decoder, str(path)),
        transformers_layout.codec_source(weights, list(codec_names(config.codec)), config.codec.codebooks, str(path)),
        tuple(weight_files(path)),
    )


def _open_audiocraft(path: Path, trust_pickle: bool) -> OpenCheckpoint:
    file = path / audiocraft_layout.LANGUAGE_MODEL
    weights, model = audiocraft_layout.open_language_model(path, trust_pickle)
    codec_config, codec_source, codec_files = _open_audiocraft_codec(path, trust_pickle)
    config = joined_config(model.decoder, codec_config, str(path))
    return OpenCheckpoint(
        path,
        "audiocraft",
        replace(config, guidance=model.guidance, segment_seconds=model.segment_seconds),
        audiocraft_layout.decoder_source(weights, model.decoder, str(file)),
        codec_source,
        tuple(sorted((file, path / audiocraft_layout.CODEC))) + codec_files,
        model.text_model,
    )


def _open_audiocraft_codec(path: Path, trust_pickle: bool) -> tuple[CodecConfig, ModuleSource, tuple[Path, ...]]:
    """The codec's description and weights, and the files that a pointer led to."""
    file = path / audiocraft_layout.CODEC
    opened = TorchFile(file, trust_pickle)
    pointer = audiocraft_layout.codec_pointer(opened)
    if pointer is None:
        weights, experiment = audiocraft_layout.exported(opened)
        config = read_codec(resolved(experiment, f"{file}: xp.cfg"), f"{file}: xp.cfg")
        return config, audiocraft_layout.codec_source(weights, codec_names(config), config, str(file)), ()
    folder = audiocraft_layout.companion(path, pointer, "codec")
    source = folder / "config.json"
    config = transformers_layout.read_codec(Section(str(source), read_json(source)))
    weights = read_weights(folder, trust_pickle)
    names = list(codec_names(config))
    return (
        config,
        transformers_layout.codec_source(weights, names, config.codebooks, str(folder), prefix=""),
        tuple(weight_files(folder)),
    )


def codec_names(config: CodecConfig) -> dict[str, bool]:
    """The names of a codec's parameters, each with whether it belongs to a transposed convolution."""
    with torch.device("meta"):
        codec = Codec(config)
    transposed = tuple(f"{name}." for name, module in codec.named_modules() if isinstance(module, TransposedConv))
    return {name: name.startswith(transposed) for name in codec.state_dict()}


def _check_size(source: ModuleSource, config: MusicGenConfig) -> None:
    """Hold the configuration against the file's names and one small shape before modules of its size are made."""
    for name in source.recipe:
        source.stored_keys(name)
    key = source.stored_keys("embedding.weight")[0]
    source.weights[key].check((config.decoder.vocab + 1, config.decoder.width))
