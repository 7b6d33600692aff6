"""Arrays that are kept in a file, so that an interrupted run goes on where it was. Used by experiments and banks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rfm_live.errors import StartError

Arrays = Mapping[str, npt.NDArray[Any]]


def kept(file: Path) -> dict[str, npt.NDArray[Any]] | None:
    """What `keep` left in `file`; None where there is none, or a broken one."""
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError):
        return None


def keep(arrays: Arrays, file: Path) -> None:
    """Write the arrays to `file` all at once: whoever reads it finds all of them or none.

    Raises:
        StartError: the file cannot be written.
    """
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise StartError(f"'{file}' cannot be written: {str(error).lower()}") from error
