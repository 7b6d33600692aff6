"""From stored tensors to a module's parameters: a recipe says which stored keys make each of ours.

Used by `checkpoint.py`. Names, shapes and types of all are judged before the first weight is read; then every parameter
is allocated once, on its device and in its dtype, and its parts are copied in one after the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfm_live.errors import CheckpointError
from rfm_live.model.stored import StoredTensor, Weights

# Weight norm's magnitude and direction: torch's parametrization, and the older form in published files.
_NORM_FORMS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)


@dataclass(frozen=True)
class Joined:
    """Stored tensors one below the other; of each, blocks `first`..`first + count` of its `blocks` equal row blocks."""

    keys: tuple[str, ...]
    first: int = 0
    count: int = 1
    blocks: int = 1


@dataclass(frozen=True)
class Stacked:
    """Stored tensors of the same shape along an axis of their own, the first."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """The weight of a convolution, stored as magnitude and direction."""

    magnitude: str
    direction: str

    @property
    def keys(self) -> tuple[str, ...]:
        return self.magnitude, self.direction


Part = Joined | Stacked | Folded


@dataclass(frozen=True)
class ModuleSource:
    """Where a module's parameters come from: a part for each of its names. `ignored` are endings of keys not read."""

    place: str
    weights: Weights
    recipe: Mapping[str, Part]
    ignored: tuple[str, ...] = ()

    def stored(self) -> list[StoredTensor]:
        """The stored tensors that are read, in order of their keys; the source must have been checked."""
        keys = {key for part in self.recipe.values() for key in part.keys}
        return [self.weights[key] for key in sorted(keys)]

    def stored_keys(self, name: str) -> tuple[str, ...]:
        """The keys of one parameter. Raises `CheckpointError` for a missing one."""
        keys = self.recipe[name].keys
        for key in keys:
            if key not in self.weights:
                raise CheckpointError(f"{self.place}: key '{key}' is missing")
        return keys

    def expected_shapes(self, name: str, target: Tensor) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The keys of one parameter and the shapes they must have. Raises `CheckpointError` for a missing one."""
        part, shape = self.recipe[name], tuple(target.shape)
        for key in self.stored_keys(name):
            match part:
                case Joined(keys, _, count, blocks):
                    yield key, (shape[0] // len(keys) // count * blocks, *shape[1:])
                case Stacked():
                    yield key, shape[1:]
                case Folded(magnitude, _):
                    norms = (shape[0], *(1 for _ in shape[1:]))
                    yield key, norms if key == magnitude else shape


def convolution(weights: Weights, layer: str) -> Part:
    """How the weight of the convolution `layer` is stored: with weight norm in one of its forms, or folded."""
    for magnitude, direction in _NORM_FORMS:
        if layer + magnitude in weights or layer + direction in weights:
            return Folded(layer + magnitude, layer + direction)
    return Joined((f"{layer}.weight",))


def check(module: nn.Module, source: ModuleSource) -> None:
    """Judge everything but the numbers. `module` may be on the meta device. Raises `CheckpointError`."""
    used: set[str] = set()
    for name, target in module.state_dict().items():
        for key, shape in source.expected_shapes(name, target):
            source.weights[key].check(shape)
            used.add(key)
    foreign = sorted(key for key in source.weights if key not in used and not key.endswith(source.ignored))
    if foreign:
        where = source.weights[foreign[0]].source
        raise CheckpointError(
            f"{where}: unexpected key '{source.weights[foreign[0]].key:.100}' ({len(foreign)} in all)"
        )


def fill(module: nn.Module, source: ModuleSource, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give a checked module its parameters, frozen, in `dtype` on `device`. Raises `CheckpointError` for NaN."""
    given: dict[str, Tensor] = {}
    for name, expected in module.state_dict().items():
        target = torch.empty(expected.shape, dtype=dtype, device=device)
        _copy_in(target, source.recipe[name], source.weights)
        given[name] = target
    module.load_state_dict(given, assign=True)
    module.requires_grad_(False)


def _copy_in(target: Tensor, part: Part, weights: Weights) -> None:
    match part:
        case Folded(magnitude, direction):
            precise = torch.promote_types(target.dtype, torch.float32)
            read = (weights[key].read().to(precise) for key in (magnitude, direction))
            target.copy_(fold_weight_norm(*read))
        case Stacked(keys):
            for place, key in zip(target, keys, strict=True):
                place.copy_(weights[key].read())
        case Joined(keys, first, count, blocks):
            for place, key in zip(target.chunk(len(keys)), keys, strict=True):
                stored = weights[key].read()
                rows = len(stored) // blocks
                place.copy_(stored[first * rows : (first + count) * rows])


def fold_weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """w = g * v / |v|, the norm over all axes but the first (Salimans and Kingma 2016, equation 2)."""
    axes = tuple(range(1, direction.dim()))
    norm: Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * (magnitude / norm)
