"""A musician's own audio as labelled clips: two folders, one folder per class, or a table. Used by `rfm-live learn`.

Only the headers of the files are read here. A file that cannot be opened or is too short becomes a `Problem`; a folder
or table that makes no sense ends the work with a `ClipError`, for that is a slip that the user wants to mend first.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import soundfile

from rfm_live.concepts.clips import Clip, Collection, Label, Problem, SoundFile, why_unreadable
from rfm_live.errors import ClipError

READABLE = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
FOREIGN = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ape", ".wv")
"""Endings of sound files that libsndfile does not read."""
ORIGIN, LICENCE = "the user's own audio", "as the audio's"
PATH_COLUMN = "path"
LONGEST_SECONDS = 86_400
"""A day. Broken headers claim centuries."""


@dataclass(frozen=True)
class Cutting:
    """How files become clips: `seconds` long, one every `hop_seconds`, none shorter than `shortest_seconds`.

    A file shorter than a clip, and the rest of a longer one, is a clip of its own where it is long enough. `peak` 0..1
    makes all clips equally loud, so that loudness is not taken for the concept; None keeps them as they are.
    """

    seconds: float = 4.0
    hop_seconds: float = 4.0
    shortest_seconds: float = 1.0
    peak: float | None = 0.9

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("hop_seconds", self.hop_seconds)):
            if not (isfinite(value) and value >= 0.1):
                raise ClipError(f"clips of {name} {value:g}, expected at least 0.1")
        if not 0.0 < self.shortest_seconds <= self.seconds:
            raise ClipError(
                f"shortest clip is {self.shortest_seconds:g} s, expected above 0 and up to {self.seconds:g}"
            )
        if self.peak is not None and not 0.0 < self.peak <= 1.0:
            raise ClipError(f"peak is {self.peak:g}, expected above 0 and up to 1")


DEFAULT_CUTTING = Cutting()


def two_folders(with_: Path, without: Path, name: str, cutting: Cutting = DEFAULT_CUTTING) -> Collection:
    """Clips of the folder `with_` have the label `name` 1.0, those of `without` 0.0.

    Raises:
        ClipError: a folder is missing or holds no usable sound file, or one lies inside the other.
    """
    _keep_apart(with_, without)
    parts = [
        _folder(folder, f"{side}/", {name: value}, cutting)
        for folder, side, value in ((with_, "with", 1.0), (without, "without", 0.0))
    ]
    return _collected(parts)


def class_folders(root: Path, label: str = "class", cutting: Cutting = DEFAULT_CUTTING) -> Collection:
    """Every folder in `root` is a class: its clips have the `label` of the folder's name.

    Raises:
        ClipError: `root` is missing, holds fewer than two folders, or a folder holds no usable sound file.
    """
    folders = [entry for entry in _entries(root) if entry.is_dir() and not entry.name.startswith(".")]
    if len(folders) < 2:
        raise ClipError(f"folder '{root}' holds {len(folders)} folders, expected one for each of 2 classes or more")
    return _collected([_folder(folder, f"{folder.name}/", {label: folder.name}, cutting) for folder in folders])


def csv_table(file: Path, cutting: Cutting = DEFAULT_CUTTING) -> Collection:
    """Clips of a table with a column `path` (from the table's folder) and a column for each label.

    Fields are separated by commas, semicolons or tabs, as the first line has them. A column of numbers gives numbers,
    any other gives classes.

    Raises:
        ClipError: the table is missing, or a row is not as the others; names the row, the first one is 1.
    """
    header, rows = _read_table(file)
    columns = {name: _column(file, rows, name) for name in header if name != PATH_COLUMN}
    items = []
    for index, (_, row) in enumerate(rows):
        labels = {name: values[index] for name, values in columns.items()}
        items.append(_Item(file.parent / row[PATH_COLUMN], row[PATH_COLUMN], labels))
    return _collected([_part(str(file), items, cutting)])


@dataclass(frozen=True)
class _Item:
    """A sound file under the `name` that its clips and problems bear."""

    file: Path
    name: str
    labels: dict[str, Label]


@dataclass(frozen=True)
class _Part:
    """What one folder or table gave."""

    name: str
    clips: Sequence[Clip]
    problems: Sequence[Problem]


def _part(name: str, items: Iterable[_Item], cutting: Cutting) -> _Part:
    clips: list[Clip] = []
    problems: list[Problem] = []
    for item in items:
        try:
            clips += _cut(item, cutting)
        except ClipError as error:
            problems.append(Problem(item.name, str(error)))
    return _Part(name, clips, problems)


def _collected(parts: Sequence[_Part]) -> Collection:
    for part in parts:
        if part.clips:
            continue
        if part.problems:
            raise ClipError(
                f"'{part.name}' holds no usable sound file ({len(part.problems)} tried); {part.problems[0]}"
            )
        raise ClipError(f"'{part.name}' holds no sound file ({', '.join(READABLE[:4])} ...)")
    clips = tuple(clip for part in parts for clip in part.clips)
    return Collection(clips, tuple(problem for part in parts for problem in part.problems), ORIGIN, LICENCE)


def _keep_apart(first: Path, second: Path) -> None:
    one, other = first.resolve(), second.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ClipError(f"folders '{first}' and '{second}' hold the same files, expected folders apart")


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name. Raises `ClipError`."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ClipError(f"folder '{folder}' cannot be read: {(error.strerror or str(error)).lower()}") from error


def _sound_files(folder: Path) -> Iterator[Path]:
    """The sound files in a folder and the folders below it, hidden ones left out, readable or not."""
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _sound_files(entry)
        elif entry.suffix.lower() in READABLE + FOREIGN:
            yield entry


def _folder(folder: Path, prefix: str, labels: dict[str, Label], cutting: Cutting) -> _Part:
    files = _sound_files(folder)
    items = (_Item(file, prefix + file.relative_to(folder).as_posix(), labels) for file in files)
    return _part(str(folder), items, cutting)


def _cut(item: _Item, cutting: Cutting) -> list[Clip]:
    """The clips of one file. Raises `ClipError` with the reason why there are none."""
    if item.file.suffix.lower() in FOREIGN:
        raise ClipError(f"{item.file.suffix.lower()} files are not read, convert it to wav or flac")
    try:
        information = soundfile.info(item.file)
    except (OSError, soundfile.SoundFileError) as error:
        raise ClipError(why_unreadable(item.file, error)) from error
    length = information.frames / information.samplerate
    if not cutting.shortest_seconds <= length:
        raise ClipError(f"too short: {length:.2f} s, expected at least {cutting.shortest_seconds:g}")
    if length > LONGEST_SECONDS:
        raise ClipError(f"too long: {length:.0f} s, expected at most {LONGEST_SECONDS}")
    clips = []
    for start, seconds in _parts(length, cutting):
        sound = SoundFile(item.file, start, seconds, cutting.peak)
        clips.append(Clip(f"{item.name} at {start:.2f} s", item.name, item.labels, seconds, sound))
    return clips


def _parts(length: float, cutting: Cutting) -> Iterator[tuple[float, float]]:
    """Start and length in seconds of the clips of a file of `length` seconds."""
    count = 0
    while (start := count * cutting.hop_seconds) == 0.0 or length - start >= cutting.shortest_seconds:
        yield start, min(cutting.seconds, length - start)
        if start + cutting.seconds >= length:
            return  # with a hop shorter than a clip, what follows would only repeat this one's end
        count += 1


def _read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns, and the number and the fields of every row. Raises `ClipError`."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ClipError(f"table '{file}' cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ClipError(f"table '{file}' is not UTF-8: byte {error.start}") from error
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count)
    records = list(csv.reader(lines, delimiter=separator))
    header = [name.strip() for name in records[0]] if records else []
    if PATH_COLUMN not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise ClipError(f"{file}: columns are {first!r:.100}, expected '{PATH_COLUMN}' and one for each label")
    rows: list[tuple[int, dict[str, str]]] = []
    seen: dict[str, int] = {}
    for number, fields in enumerate(records[1:], 1):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise ClipError(f"{file}: row {number} has {len(fields)} fields, expected {len(header)}")
        row = {name: field.strip() for name, field in zip(header, fields, strict=True)}
        path = row[PATH_COLUMN]
        if path in seen:
            raise ClipError(f"{file}: row {number} names '{path}', as row {seen[path]} does")
        seen[path] = number
        rows.append((number, row))
    if not rows:
        raise ClipError(f"{file}: the table has no rows")
    return header, rows


def _column(file: Path, rows: Sequence[tuple[int, dict[str, str]]], name: str) -> list[Label]:
    """The labels of one column: numbers when most fields are numbers, then all must be. Raises `ClipError`."""
    texts = [row[name] for _, row in rows]
    numbers = [_number(text) for text in texts]
    is_quantity = 2 * sum(number is not None for number in numbers) > len(numbers)
    labels: list[Label] = []
    for (row, _), text, number in zip(rows, texts, numbers, strict=True):
        if not text:
            raise ClipError(f"{file}: row {row} has no {name}")
        if not is_quantity:
            labels.append(text)
        elif number is None:
            raise ClipError(f"{file}: row {row} has the {name} '{text}', expected a number as in the other rows")
        else:
            labels.append(number)
    return labels


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
