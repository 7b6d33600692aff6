"""The doctor: its judgement on made-up measurements, its refusals, and a look at this machine."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from rfm_live.bench import trial
from rfm_live.bench.judgement import Demand, FrameTime, judge, least_buffer_ms, out_of_reach, warning
from rfm_live.bench.shapes import Size
from rfm_live.bench.timing import Bandwidth
from rfm_live.bench.trial import Conditions, estimated_step, try_sizes
from tests.performance import command, environment

CAUSAL = Demand(memory_bytes=1 << 29, codebooks=4, lookahead_ms=0.0)
CENTRED = Demand(memory_bytes=8 << 30, codebooks=4, lookahead_ms=75.0625)
QUICK = FrameTime(p50_ms=5.0, p95_ms=8.0, p99_ms=12.0, mean_ms=5.5)


def test_a_knob_is_heard_after_delay_pattern_lookahead_and_buffer() -> None:
    assert judge(QUICK, CAUSAL, buffer_ms=240.0).delay_ms == 60.0 + 240.0
    assert judge(QUICK, CENTRED, buffer_ms=100.0).delay_ms == 60.0 + 75.0625 + 100.0


def test_a_quick_machine_plays() -> None:
    judgement = judge(QUICK, CAUSAL, buffer_ms=60.0, machine_bytes=1 << 30)
    assert judgement.can_play and judgement.reason == ""
    assert judgement.real_time_factor == 20.0 / 5.5


def test_frames_that_take_longer_than_they_last_are_refused_whatever_the_buffer() -> None:
    judgement = judge(FrameTime(18.0, 25.0, 30.0, 20.5), CAUSAL, buffer_ms=10_000.0)
    assert not judgement.can_play and judgement.least_buffer_ms is None
    assert judgement.reason == "a frame of 20 ms takes 20.5 ms to make"
    assert judge(FrameTime.steady(20.0), CAUSAL, buffer_ms=240.0).can_play


@pytest.mark.parametrize(
    ("p99_ms", "least"), [(1.0, 60.0), (40.0, 60.0), (40.1, 70.0), (85.0, 110.0), (280.0, 300.0), (280.5, 310.0)]
)
def test_the_least_buffer_outlasts_a_slow_frame_and_the_one_that_waits(p99_ms: float, least: float) -> None:
    assert least_buffer_ms(p99_ms) == least


def test_a_buffer_shorter_than_a_slow_frame_is_refused_and_the_least_one_named() -> None:
    frame = FrameTime(p50_ms=5.0, p95_ms=30.0, p99_ms=85.0, mean_ms=9.0)
    judgement = judge(frame, CAUSAL, buffer_ms=100.0)
    assert not judgement.can_play and judgement.least_buffer_ms == 110.0
    assert judgement.reason == (
        "a buffer of 100 ms is too short: one frame in a hundred takes 85.0 ms, which needs 110 ms"
    )
    assert judge(frame, CAUSAL, buffer_ms=110.0).can_play


def test_a_checkpoint_larger_than_memory_is_refused() -> None:
    judgement = judge(QUICK, CENTRED, buffer_ms=240.0, machine_bytes=8_000_000_000)
    assert judgement.reason == "it takes 8.6 GB of memory, and there are 8.0 GB"
    assert judge(QUICK, CENTRED, buffer_ms=240.0, machine_bytes=0).can_play  # nobody knows


def test_memory_alone_may_forbid_it() -> None:
    assert out_of_reach(200_000_000, bytes_per_second=10e9) == ""  # 20 ms
    assert out_of_reach(1_500_000_000, bytes_per_second=10e9) == (
        "a frame of 20 ms must move 1500 MB of weights, which takes at least 150 ms at 10.0 GB/s"
    )


def test_play_warns_of_a_machine_that_is_too_slow() -> None:
    assert warning(1.0) == warning(3.0) == ""
    assert warning(0.5) == (
        "a frame of 20 ms takes 40.0 ms to make: the sound will have gaps; `rfm-live doctor` tells more"
    )


def _conditions(bytes_per_second: float, machine_bytes: int = 0) -> Conditions:
    return Conditions(torch.device("cpu"), Bandwidth(bytes_per_second, bytes_per_second / 2), 240.0, machine_bytes)


def test_sizes_out_of_reach_are_judged_by_their_bytes_alone() -> None:
    given = _conditions(10e9, machine_bytes=8_000_000_000)
    trials = {trial.checkpoint: trial for trial in try_sizes(given, ("fp32",))}
    small = trials["small"]
    assert small.basis == "floor" and small.frame is None and not small.judgement.can_play
    assert small.floor_ms == pytest.approx(small.moved_bytes / 10e9 * 1000)
    # Weights of 361 M numbers less 50 M that a short text saves, two rows of keys and values, a codec of 28 M numbers.
    assert 1.5e9 < small.moved_bytes < 1.9e9 and "must move" in small.judgement.reason
    # 3.26e9 weights twice, two contexts of 2 * 48 * 2 * 1500 * 2048 numbers, and 0.8 GB of codec and program.
    assert trials["large"].judgement.reason == "it takes 31.5 GB of memory, and there are 8.0 GB"


def test_what_plays_in_no_precision_is_told_of_in_the_least() -> None:
    whole, rounded = (try_sizes(_conditions(1e9), precisions)[0] for precisions in (("fp32",), ("fp32", "int8")))
    assert (whole.precision, rounded.precision) == ("fp32", "int8")
    assert rounded.moved_bytes < whole.moved_bytes and not rounded.judgement.can_play


def test_a_size_within_reach_is_estimated_from_fewer_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SIZES", {"tiny": Size(64, 5, text_width=64)})
    monkeypatch.setattr(trial, "CODEC_32KHZ", trial.replace(trial.CODEC_32KHZ, filters=2))
    (found,) = try_sizes(_conditions(1e12), ("fp32",))
    assert found.basis == "estimated"
    assert found.frame is not None and found.codec_ms is not None
    assert 0.0 < found.codec_ms < found.frame.p50_ms <= found.frame.p99_ms
    assert found.judgement.delay_ms == pytest.approx(60.0 + 1000 * 2402 / 32_000 + 240.0)


def test_more_blocks_are_estimated_to_take_as_much_more(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: FrameTime(2.0, 3.0, 4.0, 2.0), 3: FrameTime(6.0, 9.0, 12.0, 8.0)}
    monkeypatch.setattr(trial, "_step_time", lambda config, device, precision: times[config.layers])
    assert estimated_step(Size(64, 24).config, torch.device("cpu"), "fp32") == FrameTime(48.0, 72.0, 96.0, 64.0)


def _doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command("doctor", *arguments), capture_output=True, text=True, env=environment(), timeout=180)


def test_the_doctor_tells_what_it_found_as_json(tiny_path: Path) -> None:
    result = _doctor("--checkpoint", str(tiny_path), "--json", "--buffer", "10000")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["bandwidth"]["copy"] > 0 and set(found["ports"]) == {"9000", "9080"}
    asked, *sizes = found["trials"]
    assert [size["checkpoint"] for size in sizes] == ["small", "medium", "large"]
    frame = asked["frame"]
    assert 0 < asked["floor_ms"] < frame["p50_ms"] <= frame["p95_ms"] <= frame["p99_ms"]
    assert 0 < asked["codec_ms"]
    assert asked["judgement"]["delay_ms"] == 10_060.0  # its codec is causal
    assert asked["judgement"]["can_play"] == (frame["mean_ms"] <= 20.0)
    assert result.returncode == (0 if asked["judgement"]["can_play"] else 1)


@pytest.mark.parametrize("buffer", ["59", "10001", "nan"])
def test_a_buffer_that_play_does_not_take_is_refused(buffer: str) -> None:
    result = _doctor("--buffer", buffer)
    assert result.returncode == 2
    assert result.stderr.strip() == f"rfm-live: buffer is {buffer} ms, expected 60..10000"


@pytest.mark.parametrize(
    "compute, words",
    [("tpu", "expected cpu, cuda, cuda:N or mps"), ("cuda:99", "but torch sees")],
)
def test_a_device_that_play_does_not_take_is_refused(compute: str, words: str) -> None:
    result = _doctor("--compute", compute)
    assert result.returncode == 2
    assert result.stderr.startswith(f"rfm-live: compute is '{compute}', ") and words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
