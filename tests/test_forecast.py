"""What learning will take: counts and sums by hand, and the command that measures, tells and leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from rfm_live.cli.app import app
from rfm_live.cli.dry_run import duration, forecast_lines
from rfm_live.concepts.calibration import Listening, trial_count
from rfm_live.concepts.clips import Clip, Collection, MemorySound
from rfm_live.concepts.forecast import Amounts, Forecast, Task, forecast, listening_work, shard_bytes, work_of
from rfm_live.concepts.learning import LearningSettings
from rfm_live.concepts.stage import Play
from rfm_live.concepts.targets import Concept
from tests.sounds import tone, write_tones

PLAY = Play(heard_seconds=4.0, lead_seconds=2.0, settle_seconds=1.0)


def task(clips: int, method: str, listening: Listening | None, meter: str = "auto") -> Task:
    sound = MemorySound(tone(440.0, 0.1), 32_000)
    made = tuple(Clip(f"clip{index}", f"g{index}", {"x": float(index % 2)}, 4.0, sound) for index in range(clips))
    return Task(Collection(made, (), "", ""), None, "x", "dark", LearningSettings(method), listening, meter)


def concepts(count: int, clips: int) -> list[Concept]:
    targets = np.asarray([index % 2 for index in range(clips)], np.float64)
    return [Concept(f"dark_{index}", targets) for index in range(count)]


def test_a_part_takes_its_amounts_times_their_pace() -> None:
    work = Amounts(60.0, 2400.0, 312, 48, 1481.0, 328)
    pace = Amounts(0.05, 0.25, 2.0, 0.5, 1.5, 0.125)
    assert forecast(work, pace) == {
        "rendering": 3.0,
        "reading": 600.0,
        "learning": 624.0,
        "listening": 24.0 + 2221.5 + 41.0,
    }


@pytest.mark.parametrize(
    ("concepts", "seeds", "trials", "music", "hearings"),
    [
        # 2 seeds, 7 units, both ways and at random; then 4 knobs and a random one of 3 seeds
        (1, 3, 42 + 15, 57 * 5 + 3 * 7, 57 + 3),
        (12, 3, 4 * 42 + 12 * 15, 348 * 5 + 3 * 7, 348 + 36),  # units are tried on four concepts only
        (2, 2, 2 * 42 + 2 * 10, 104 * 5 + 2 * 7, 104 + 4),
    ],
)
def test_the_pieces_that_are_listened_to_are_counted(
    concepts: int, seeds: int, trials: int, music: float, hearings: int
) -> None:
    assert trial_count(concepts, seeds) == trials
    work = listening_work(concepts, Listening(PLAY, tuple(range(1, seeds + 1))))
    assert (work.music_seconds, work.hearings) == (music, hearings)


@pytest.mark.parametrize(
    ("method", "meter", "fits", "meter_clips"), [("rfm", "auto", 3 * 24 + 3, 48), ("means", "probe", 3 * 24, 0)]
)
def test_the_work_is_counted_from_clips_concepts_and_blocks(
    method: str, meter: str, fits: int, meter_clips: int
) -> None:
    """100 clips of 4 s and 16 of them again for the norms; 24 clips a side choose the meter; spectra are RFM's."""
    work = work_of(task(100, method, Listening(PLAY, (1, 2, 3)), meter), concepts(3, 100), 24)
    assert (work.clip_seconds, work.fits, work.meter_clips, work.track_seconds) == (464.0, fits, meter_clips, 0.0)
    assert work.music_seconds == listening_work(3, Listening(PLAY, (1, 2, 3))).music_seconds
    silent = work_of(task(100, method, None, meter), concepts(3, 100), 24)
    assert (silent.clip_seconds, silent.meter_clips, silent.music_seconds, silent.hearings) == (464.0, 0, 0, 0)


def test_a_shard_takes_four_bytes_a_number() -> None:
    """musicgen-small: 32 clips, 24 blocks of width 1024, mean and last and 8 segments."""
    assert shard_bytes(32, 24, 1024, 8) == 31_457_280


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7650, "2 h 07 min"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_forecast_is_told_with_its_sum() -> None:
    found = Forecast(600, ("a", "b"), 10.0, 20.0, 300.0, 200.0, 70.0, 3 << 29, 33.0)
    lines = forecast_lines(found)
    assert lines[0] == "2 concepts from 600 clips would take" and "10 min 00 s  in all, and 1.5 GiB" in lines[6]
    assert lines[3].split(None, 3) == ["5", "min", "00", "s  reading"]


def dry_run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["learn", *map(str, arguments), "--dry-run"])


def test_a_dry_run_tells_and_leaves_nothing_behind(tiny_path: Path, tmp_path: Path) -> None:
    write_tones(tmp_path / "high", [1000.0 + 50 * step for step in range(8)])
    write_tones(tmp_path / "low", [150.0 + 5 * step for step in range(8)])
    shared = [
        "--name",
        "height",
        "--checkpoint",
        tiny_path,
        "--cache",
        tmp_path / "cache",
        "-o",
        tmp_path / "h.safetensors",
    ]
    shared = ["--folders", tmp_path / "high", tmp_path / "low", *shared]
    told = dry_run(*shared, "--seeds", "2", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["clips"] == 16 and found["concepts"] == ["height"] and found["rendering"] == 0.0
    parts = [found[part] for part in ("starting", "rendering", "reading", "learning", "listening")]
    assert found["seconds"] == pytest.approx(sum(parts)) and min(parts[0], *parts[2:]) > 0.0
    assert 100 << 20 < found["peak_bytes"] < 8 << 30
    deaf = dry_run(*shared, "--seeds", "0", "--method", "means")
    assert deaf.exit_code == 0 and "0 s  listening" in deaf.stdout and "nothing was learned" in deaf.stdout
    assert not (tmp_path / "h.safetensors").exists() and not (tmp_path / "cache").exists()


def test_of_a_set_only_the_measured_tracks_are_rendered(tiny_path: Path, tmp_path: Path) -> None:
    shared = ["--subset", "48", "--seeds", "0", "--method", "means", "--checkpoint", tiny_path, "--cache", tmp_path]
    told = dry_run("notes", *shared, "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["clips"] == 48 and len(found["concepts"]) == 12 and found["rendering"] > 0.0
    assert 1 <= len(list(tmp_path.rglob("*.flac"))) <= 8
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "activations").exists()
