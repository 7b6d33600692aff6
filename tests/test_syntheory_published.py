"""The published data set in its three layouts: info.csv with WAV files, parquet, arrow. All written here, small."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from rfm_live.concepts.syntheory_published import published_syntheory
from rfm_live.errors import ClipError
from tests.sounds import frequency_hz, tone, write

TONAL = {"midi_program_num": 24, "midi_program_name": "Acoustic Nylon Guitar", "midi_category": "Guitar Timbres"}
CLICK = {"click_config_name": "taiko", "midi_program_num": 116, "offset_time": "3.25"}
ROWS = {
    "notes": ({"root_note_name": "C#", "root_note_pitch_class": 1, "octave": 4, **TONAL}, "note", "c_sharp"),
    "intervals": ({"root_note_name": "C", "interval": 7, "play_style_name": "UP", **TONAL}, "interval", "7"),
    "scales": ({"root_note_name": "D", "mode": "dorian", "play_style": 0, **TONAL}, "scale", "dorian"),
    "chords": ({"root_note_name": "C", "chord_type": "aug", "inversion": 64, **TONAL}, "chord", "aug"),
    "progressions": (
        {"key_note_name": "C", "chord_progression": "ionian-(1, 4, 5, 1)", **TONAL},
        "progression",
        "ionian_1451",
    ),
    "tempos": ({"bpm": 74, **CLICK}, "tempo_bpm", 74.0),
    "time_signatures": (
        {"time_signature": "(3, 4)", "time_signature_beats": 3, "time_signature_subdivision": 4, **CLICK},
        "time_signature",
        "3/4",
    ),
}
"""A row of each set as published, the name of its label with us, and the label."""
FOLDERS = {"progressions": "simple_progressions"}


def stereo(hertz: float) -> np.ndarray:
    """Four seconds at 44.1 kHz, the left channel alone."""
    return np.stack([tone(hertz, 4.0, 44_100), np.zeros(176_400, np.float32)], axis=1)


def wav_bytes(hertz: float) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, stereo(hertz), 44_100, format="WAV")
    return stream.getvalue()


def write_info(folder: Path, row: dict[str, object], crops: bool) -> None:
    """Three rows; where a set has crops, the file that they were cut from is another one."""
    with_files = []
    for index in range(3):
        write(folder / f"{index}.wav", stereo(200.0 + 100 * index), 44_100)
        named = {"synth_file_path": "whole.wav", "offset_file_path": f"{index}.wav"}
        with_files.append({"row_id": index, **row, **(named if crops else {"synth_file_path": f"{index}.wav"})})
    with (folder / "info.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(with_files[0]))
        table.writeheader()
        table.writerows(with_files)


def as_table(row: dict[str, object]) -> pyarrow.Table:
    rows = [{"audio": {"bytes": wav_bytes(200.0 + 100 * index), "path": f"{index}.wav"}, **row} for index in range(3)]
    return pyarrow.Table.from_pylist(rows)


def write_parquet(folder: Path, row: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(as_table(row), folder / "train-00000-of-00001.parquet", row_group_size=2)


def write_arrow(folder: Path, row: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    table = as_table(row)
    with pyarrow.ipc.new_stream(folder / "syntheory-train.arrow", table.schema) as stream:
        stream.write_table(table)


@pytest.mark.parametrize("layout", ["info", "parquet", "arrow"])
@pytest.mark.parametrize("name", ROWS)
def test_every_set_is_read_in_every_layout(tmp_path: Path, name: str, layout: str) -> None:
    row, label, value = ROWS[name]
    folder = tmp_path / (name if layout == "info" else FOLDERS.get(name, name))
    if layout == "info":
        write_info(folder, row, crops="click_config_name" in row)
    else:
        {"parquet": write_parquet, "arrow": write_arrow}[layout](folder, row)
    for root in (tmp_path, folder):
        found = published_syntheory(root, name)
        assert [clip.labels for clip in found.clips] == [{label: value}] * 3 and not found.problems
        assert {clip.group for clip in found.clips} == {"taiko" if "click_config_name" in row else "program024"}
        assert len({clip.name for clip in found.clips}) == len({clip.sound.identity for clip in found.clips}) == 3
    for index, clip in enumerate(found.clips):
        samples = clip.read(32_000)
        assert len(samples) == 128_000 and np.abs(samples).max() == pytest.approx(0.9, abs=1e-3)
        assert frequency_hz(samples, 32_000) == pytest.approx(200.0 + 100 * index, abs=0.1)


def test_a_subset_is_taken_in_balance(tmp_path: Path) -> None:
    rows = [
        {"audio": {"bytes": b"", "path": "a.wav"}, "chord_type": kind, "midi_program_num": program}
        for kind in ("major", "minor", "aug", "dim")
        for program in range(6)
    ]
    (tmp_path / "chords").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chords" / "a.parquet")
    clips = published_syntheory(tmp_path, "chords", 8).clips
    assert sorted(clip.labels["chord"] for clip in clips) == ["aug"] * 2 + ["dim"] * 2 + ["major"] * 2 + ["minor"] * 2
    with pytest.raises(ClipError, match=r"row 0 of a.parquet holds no sound that can be read"):
        clips[0].sound.__class__(tmp_path / "chords" / "a.parquet", 0, 0).read(32_000)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mode": "dorian"}, "info.csv row 1: no scales of SynTheory: KeyError 'midi_program_num'"),
        ({"midi_program_num": 3}, "info.csv row 1: no scales of SynTheory: KeyError 'mode'"),
        ({"mode": "blues", "midi_program_num": 3}, "row 1: scale is 'blues', expected one of ionian, dorian"),
        ({"mode": "dorian", "midi_program_num": "guitar"}, "row 1: no scales of SynTheory: ValueError"),
    ],
)
def test_rows_that_are_not_as_published_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    write_info(tmp_path / "scales", row, crops=False)
    with pytest.raises(ClipError, match=message):
        published_syntheory(tmp_path, "scales")


def test_a_missing_or_broken_set_says_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "chords", ROWS["chords"][0])
    with pytest.raises(ClipError, match="holds no SynTheory progressions: no info"):
        published_syntheory(tmp_path, "progressions")
    (tmp_path / "chords" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ClipError, match=r"train-00000-of-00001.parquet' cannot be read"):
        published_syntheory(tmp_path, "chords")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.arrow").write_bytes(b"no arrow")
    with pytest.raises(ClipError, match=r"a.arrow' cannot be read"):
        published_syntheory(tmp_path, "notes")
    (tmp_path / "tempos").mkdir()
    (tmp_path / "tempos" / "info.csv").write_text("bpm,click_config_name\n90,taiko\n")
    with pytest.raises(ClipError, match=r"info.csv row 1: no synth_file_path"):
        published_syntheory(tmp_path, "tempos")
