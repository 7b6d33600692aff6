"""A safetensors file, its header checked against its size, each tensor read straight into memory of its own.

Format: 8 bytes of header length (little endian), a JSON header of dtype, shape and data_offsets by key, then the data
without gaps. Read rather than mapped, for mapped pages would count a second time beside the model.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfm_live.errors import CheckpointError
from rfm_live.model.documents import one_line, parse_json

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 8 << 20  # a thousand tensors take a fiftieth of it


@dataclass(frozen=True)
class Entry:
    """A tensor's place: bytes `begin`..`end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """The tensors of a file by key. Raises `CheckpointError` for a header that does not fit the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            size = file.stat().st_size
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
                if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MOST_HEADER_BYTES):
                    raise CheckpointError(f"{file}: no safetensors: a header of {length} bytes in a file of {size}")
                header = parse_json(stream.read(length), f"{file}: header")
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {one_line(error)}") from error
        header.pop("__metadata__", None)
        start = _LENGTH_BYTES + length
        self.entries = {key: self._entry(key, description, start) for key, description in header.items()}
        self._check_places(start, size)

    def read(self, key: str) -> Tensor:
        """Read one tensor. Raises `CheckpointError` when the file has changed or fails."""
        entry = self.entries[key]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        buffer = tensor.reshape(-1).view(torch.uint8).numpy().data
        try:
            with self.file.open("rb", buffering=0) as stream:
                stream.seek(entry.begin)
                done = 0
                while done < len(buffer) and (count := stream.readinto(buffer[done:])):
                    done += count
        except OSError as error:
            raise CheckpointError(f"{self.file}: key '{key}' cannot be read: {one_line(error)}") from error
        if done < len(buffer):
            raise CheckpointError(f"{self.file}: key '{key}' ends after {done} of {len(buffer)} bytes")
        return tensor

    def _entry(self, key: str, description: Any, start: int) -> Entry:
        where = f"{self.file}: key '{key:.100}'"
        try:
            name, shape, (begin, end) = (description[part] for part in ("dtype", "shape", "data_offsets"))
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{where} has no dtype, shape and data_offsets") from error
        if name not in _DTYPES:
            raise CheckpointError(f"{where} holds {name!r:.40}, expected one of {', '.join(_DTYPES)}")
        numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
        if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
            raise CheckpointError(f"{where} has shape {shape!r:.40} at {begin!r:.20}..{end!r:.20}")
        needed = prod(shape) * _DTYPES[name].itemsize
        if end - begin != needed:
            raise CheckpointError(f"{where} takes {end - begin} bytes, a {name} of {shape!r:.40} takes {needed}")
        return Entry(_DTYPES[name], tuple(shape), start + begin, start + end)

    def _check_places(self, start: int, size: int) -> None:
        """Refuse tensors that overlap, leave gaps or do not end with the file."""
        place = start
        for key, entry in sorted(self.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != place:
                raise CheckpointError(f"{self.file}: key '{key}' begins at byte {entry.begin}, expected {place}")
            place = entry.end
            if place > size:
                raise CheckpointError(f"{self.file}: key '{key}' ends at byte {place}, the file has {size}")
        if place != size:
            raise CheckpointError(f"{self.file}: has {size} bytes, its tensors end at {place}")
