"""Tensors that are still in their files: what is known of each before it is read, and the files of a folder.

Used by `checkpoint.py` and the readers of both layouts. Everything that can be refused by looking at names, shapes and
types is refused before the first weight is read; then tensors are read one at a time, so that memory holds each once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from rfm_live.errors import CheckpointError
from rfm_live.model.documents import read_json
from rfm_live.model.safetensors_file import SafetensorsFile
from rfm_live.model.torch_file import TorchFile

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_MOST_SHARDS = 1000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `source` names the file in errors; `load` answers it as it is stored, on the CPU."""

    source: str
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse another shape and whatever is not of floats. Raises `CheckpointError`."""
        if self.shape != shape:
            shapes = f"{list(self.shape)}, expected {list(shape)}"
            raise CheckpointError(f"{self.source}: key '{self.key}' has shape {shapes}")
        if self.dtype not in FLOATS:
            kind = str(self.dtype).removeprefix("torch.")
            raise CheckpointError(f"{self.source}: key '{self.key}' holds {kind}, expected floats of 16 to 64 bits")

    def read(self) -> Tensor:
        """Read the tensor. Raises `CheckpointError` when it cannot be read, or holds a number that is not finite."""
        tensor = self.load()
        if tensor.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(tensor)):
            raise CheckpointError(f"{self.source}: key '{self.key}' holds NaN or infinity")
        return tensor


Weights = Mapping[str, StoredTensor]


def in_memory(tensors: Mapping[str, Tensor], source: str) -> dict[str, StoredTensor]:
    """Tensors of a loaded model in the same form; `source` names the model in errors."""

    def load(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor.detach().cpu()

    return {
        key: StoredTensor(source, key, tuple(tensor.shape), tensor.dtype, load(tensor))
        for key, tensor in tensors.items()
    }


def with_prefix(weights: Weights, *prefixes: str) -> dict[str, StoredTensor]:
    """The tensors whose keys begin with one of `prefixes`, under their full keys."""
    return {key: tensor for key, tensor in weights.items() if key.startswith(prefixes)}


def weight_files(path: Path) -> list[Path]:
    """The weight files of a folder in transformers layout, by name: one, or the shards that an index lists.

    Safetensors go before `pytorch_model.bin`. Raises `CheckpointError`.
    """
    for single in _SINGLES:
        if (path / single).is_file():
            return [path / single]
        if (path / f"{single}.index.json").is_file():
            return sorted({path / name for name in _weight_map(path / f"{single}.index.json").values()})
    for single in _SINGLES:
        if (path / single).is_symlink():
            raise CheckpointError(f"{path / single}: is a link to nowhere")
    raise CheckpointError(f"{path}: no {' or '.join(_SINGLES)}")


def read_weights(path: Path, trust_pickle: bool = False) -> dict[str, StoredTensor]:
    """Open the weight files of a folder in transformers layout. Raises `CheckpointError`."""
    weights: dict[str, StoredTensor] = {}
    files = weight_files(path)
    for file in files:
        for key, tensor in _open(file, trust_pickle):
            if key in weights:
                raise CheckpointError(f"{file}: key '{key}' is in {Path(weights[key].source).name} as well")
            weights[key] = tensor
    index = next((i for single in _SINGLES if (i := path / f"{single}.index.json").is_file()), None)
    if index is not None and files[0].name not in _SINGLES:
        for key, name in _weight_map(index).items():
            if key not in weights or Path(weights[key].source).name != name:
                raise CheckpointError(f"{index}: key '{key}' is not in {name}")
    return weights


def _open(file: Path, trust_pickle: bool) -> Iterator[tuple[str, StoredTensor]]:
    if file.suffix == ".safetensors":
        yield from safetensors_weights(file).items()
    else:
        yield from torch_weights(TorchFile(file, trust_pickle), ()).items()


def safetensors_weights(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises `CheckpointError`."""
    opened = SafetensorsFile(file)

    def load(key: str) -> Callable[[], Tensor]:
        return lambda: opened.read(key)

    return {
        key: StoredTensor(str(file), key, entry.shape, entry.dtype, load(key)) for key, entry in opened.entries.items()
    }


def torch_weights(opened: TorchFile, path: tuple[str, ...]) -> dict[str, StoredTensor]:
    """The tensors of one file of torch.save, in the dictionary that `path` leads to. Raises `CheckpointError`."""

    def load(key: str) -> Callable[[], Tensor]:
        return lambda: opened.read((*path, key))

    return {
        key: StoredTensor(str(opened.file), key, tuple(tensor.shape), tensor.dtype, load(key))
        for key, tensor in opened.tensors(path).items()
    }


def _weight_map(index: Path) -> dict[str, str]:
    """Key -> name of the shard. A shard is a plain name beside its index; anything else is not ours to open."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: no weight_map")
    suffix = ".safetensors" if ".safetensors." in index.name else ".bin"
    for key, name in names.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{index}: key '{key}' is in {name!r:.80}, expected the name of a {suffix} file here")
    if len(set(names.values())) > _MOST_SHARDS:
        raise CheckpointError(f"{index}: lists {len(set(names.values()))} files, expected at most {_MOST_SHARDS}")
    return names
