"""A file of torch.save, opened without running what may hide in it.

The zip archive is judged before it is unpickled: nothing compressed, nothing larger than the file. Then torch's
weights-only unpickler reads it, which knows tensors and plain containers and calls nothing else. Tensors are mapped,
not read; `TorchFile.read` maps the file anew from time to time, so that pages once read do not pile up beside the
model.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfm_live.errors import CheckpointError
from rfm_live.model.documents import one_line

_MOST_PICKLE_BYTES = 2 << 20  # MusicGen large has a tenth of it
_MOST_RECORDS = 20_000
_REMAPS = 16  # how often a file is mapped anew while all of it is read


class TorchFile:
    """What a file of torch.save holds. Raises `CheckpointError`; only with `trust_pickle` may its content run code."""

    def __init__(self, file: Path, trust_pickle: bool = False) -> None:
        self.file = file
        self._trust_pickle = trust_pickle
        self._check_archive()
        self._touched = 0
        self.content = self._load()
        if not isinstance(self.content, dict):
            raise CheckpointError(f"{file}: holds {type(self.content).__name__}, expected a dictionary")

    def tensors(self, path: tuple[str, ...]) -> dict[str, Tensor]:
        """The dictionary of plain tensors that the keys of `path` lead to; nothing is read yet."""
        table = self._inside(path)
        where = "".join(f"{key}: " for key in path)
        if not isinstance(table, dict) or not table:
            raise CheckpointError(f"{self.file}: {where or 'content '}is {table!r:.40}, expected tensors by name")
        for key, tensor in table.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{self.file}: {where}key {key!r:.40} is no text")
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise CheckpointError(f"{self.file}: {where}key '{key:.100}' is {tensor!r:.40}, expected a tensor")
            if tensor.is_quantized:
                raise CheckpointError(f"{self.file}: {where}key '{key:.100}' is quantized, expected plain floats")
        return table

    def read(self, path: tuple[str, ...]) -> Tensor:
        """One tensor, mapped: copy it before the next is read."""
        if self._touched > self._size // _REMAPS and not self._trust_pickle:  # what it runs, it runs once
            self.content, self._touched = None, 0
            self.content = self._load()
        tensor = self._inside(path)
        assert isinstance(tensor, Tensor)
        self._touched += tensor.numel() * tensor.element_size()
        return tensor.detach()

    def _inside(self, path: tuple[str, ...]) -> Any:
        content = self.content
        for key in path:
            content = content[key]
        return content

    def _check_archive(self) -> None:
        """Refuse what torch.save does not write: records that are compressed, larger than the file, or twice there."""
        try:
            size = self.file.stat().st_size
            with zipfile.ZipFile(self.file) as archive:
                records = archive.infolist()
            self._size = size
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            kind = "cannot be read" if isinstance(error, OSError) else "no archive of torch.save, or cut short"
            raise CheckpointError(f"{self.file}: {kind}: {one_line(error)}") from error
        if len(records) > _MOST_RECORDS or len({record.filename for record in records}) != len(records):
            raise CheckpointError(f"{self.file}: has {len(records)} records, some twice or too many")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                raise CheckpointError(f"{self.file}: record '{record.filename:.80}' is compressed, expected it stored")
        if (declared := sum(record.file_size for record in records)) > size:
            raise CheckpointError(f"{self.file}: declares {declared} bytes, the file has {size}")
        pickles = [record for record in records if record.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{self.file}: no archive of torch.save: {len(pickles)} records data.pkl")
        if pickles[0].file_size > _MOST_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.file}: data.pkl has {pickles[0].file_size} bytes, expected at most {_MOST_PICKLE_BYTES}"
            )

    def _load(self) -> Any:
        try:
            return torch.load(self.file, map_location="cpu", mmap=True, weights_only=not self._trust_pickle)
        except Exception as error:  # a hostile pickle can make the unpickler raise anything
            if isinstance(error, pickle.UnpicklingError) and (names := self._unsafe_names()):
                reason = f"its pickle asks for '{names[0]:.80}', which may run code; --trust-pickle allows it"
            else:
                reason = f"cannot be read: {one_line(error)}"
            raise CheckpointError(f"{self.file}: {reason}") from error

    def _unsafe_names(self) -> list[str]:
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(self.file))
        except Exception:  # as above; the pickle may be broken as well
            return []
