"""SynTheory as its authors publish it, read where a user has it. Used by concept learning.

Three layouts of a set: a folder with `info.csv` and WAV files, as their generator writes it; the parquet files of the
Hugging Face data set; and the arrow files of its cache. The last two hold the sound inside and need pyarrow.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import soundfile

from rfm_live.concepts.clips import Clip, Collection, Label, Samples, Sound, SoundFile, at_rate, checked
from rfm_live.concepts.harmony import PITCH_CLASSES
from rfm_live.concepts.splits import balanced_subset
from rfm_live.concepts.syntheory import CLIP_SECONDS, ConceptSet, concept_set, program_name
from rfm_live.concepts.syntheory_audio import LICENCE, PEAK
from rfm_live.errors import ClipError, StartError

Row = Mapping[str, Any]
INFO = "info.csv"
TABLES = (".parquet", ".arrow")
AUDIO = "audio"
_FOLDERS = {"progressions": ("simple_progressions", "chord_progressions")}
"""Other names of a set's folder."""


@dataclass(frozen=True)
class TableSound:
    """The sound in one row of a parquet or arrow file; row groups are those of parquet, 0 for arrow."""

    path: Path
    group: int
    row: int

    @property
    def identity(self) -> str:
        stat = self.path.stat()
        return f"{self.path.absolute()} {stat.st_size} {stat.st_mtime_ns} {self.group} {self.row} {PEAK}"

    def read(self, sample_rate_hz: int) -> Samples:
        content = _audio_column(self.path, self.group)[self.row].as_py()["bytes"]
        try:
            channels, rate = soundfile.read(io.BytesIO(content or b""), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise ClipError(f"row {self.row} of {self.path.name} holds no sound that can be read") from error
        return at_rate(checked(channels.mean(axis=1)), rate, sample_rate_hz, PEAK)


def published_syntheory(root: Path, set_name: str, subset: int | None = None) -> Collection:
    """The clips of a published set in `root` or in the folder of its name there; `subset` of them in balance, or all.

    Raises:
        ClipError: there is no such set, its rows are not as published, or the subset cannot be had.
        StartError: pyarrow is missing.
    """
    member = concept_set(set_name)
    folder = _folder(root, set_name)
    if (folder / INFO).is_file():
        clips = _from_info(folder / INFO, member)
    else:
        clips = [clip for file in _tables(folder) for clip in _from_table(file, member)]
    if subset is not None:
        classes = [clip.labels[member.label] for clip in clips]
        clips = [clips[index] for index in balanced_subset(classes, [clip.group for clip in clips], subset)]
    return Collection(tuple(clips), (), f"SynTheory's published {set_name} (Wei et al., ISMIR 2024)", LICENCE)


def _folder(root: Path, set_name: str) -> Path:
    names: tuple[str, ...] = (set_name, *_FOLDERS.get(set_name, ()))
    candidates = [root / name for name in names]
    for folder in candidates:
        if (folder / INFO).is_file() or _tables(folder):
            return folder
    if (root / INFO).is_file() or any(file.parent == root for file in _tables(root)):
        return root
    raise ClipError(f"'{root}' holds no SynTheory {set_name}: no {INFO}, parquet or arrow file in it or in {names[-1]}")


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in TABLES) if folder.is_dir() else []


def _from_info(file: Path, member: ConceptSet) -> list[Clip]:
    """Clips of a folder that the authors' generator wrote: crops where a set has them, else whole files."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    clips = []
    for number, row in enumerate(rows, 1):
        place = f"{file} row {number}"
        name = row.get("offset_file_path") or row.get("synth_file_path")
        if not name:
            raise ClipError(f"{place}: no synth_file_path")
        sound = SoundFile(file.parent / name, 0.0, None, PEAK)
        clips.append(_clip(name, row, member, place, sound))
    return clips


def _from_table(file: Path, member: ConceptSet) -> list[Clip]:
    clips: list[Clip] = []
    for group, rows in enumerate(_label_rows(file)):
        for index, row in enumerate(rows):
            name = f"{file.name} row {len(clips)}"
            clips.append(_clip(name, row, member, f"{file} row {len(clips)}", TableSound(file, group, index)))
    return clips


def _clip(name: str, row: Row, member: ConceptSet, place: str, sound: Sound) -> Clip:
    try:
        label = _LABELS[member.name](row)
        group = (
            str(row["click_config_name"]) if "click_config_name" in row else program_name(int(row["midi_program_num"]))
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ClipError(f"{place}: no {member.name} of SynTheory: {type(error).__name__} {error}") from error
    if member.classes and label not in member.classes:
        raise ClipError(f"{place}: {member.label} is {label!r}, expected one of {', '.join(member.classes)}")
    return Clip(f"{member.name}/{name}", group, {member.label: label}, CLIP_SECONDS, sound)


def _progression(row: Row) -> str:
    """`ionian-(1, 4, 5, 1)` is ionian_1451."""
    text = str(row["chord_progression"])
    return f"{text.partition('-')[0]}_{''.join(re.findall('[1-7]', text))}"


def _metre(row: Row) -> str:
    """`(3, 4)` is 3/4."""
    if "time_signature_beats" in row:
        return f"{int(row['time_signature_beats'])}/{int(row['time_signature_subdivision'])}"
    return "/".join(re.findall(r"\d+", str(row["time_signature"])))


_LABELS: dict[str, Callable[[Row], Label]] = {
    "notes": lambda row: PITCH_CLASSES[int(row["root_note_pitch_class"])],
    "intervals": lambda row: str(int(row["interval"])),
    "scales": lambda row: str(row["mode"]),
    "chords": lambda row: str(row["chord_type"]),
    "progressions": _progression,
    "tempos": lambda row: float(row["bpm"]),
    "time_signatures": _metre,
}
"""Each set's label from the columns that the authors publish."""


def _pyarrow(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StartError("reading parquet and arrow files needs pyarrow: pip install 'rfm-live[train]'") from error


def _label_rows(file: Path) -> list[Sequence[Row]]:
    """Every column but the sound, by row group."""
    try:
        if file.suffix == ".arrow":
            table = _arrow_table(file)
            return [table.drop_columns([AUDIO]).to_pylist()]
        opened = _pyarrow("pyarrow.parquet").ParquetFile(file)
        columns = [name for name in opened.schema_arrow.names if name != AUDIO]
        return [opened.read_row_group(group, columns).to_pylist() for group in range(opened.num_row_groups)]
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are ValueErrors
        raise ClipError(f"'{file}' cannot be read: {' '.join(str(error).split())[:200]}") from error


@lru_cache(maxsize=1)
def _audio_column(file: Path, group: int) -> Any:
    """The sounds of one row group. Those of SynTheory are read in order, so one group in memory is enough."""
    if file.suffix == ".arrow":
        return _arrow_table(file)[AUDIO]
    return _pyarrow("pyarrow.parquet").ParquetFile(file).read_row_group(group, [AUDIO])[AUDIO]


def _arrow_table(file: Path) -> Any:
    """A table that stays on disk, mapped."""
    arrow = _pyarrow("pyarrow")
    return _pyarrow("pyarrow.ipc").open_stream(arrow.memory_map(str(file))).read_all()
