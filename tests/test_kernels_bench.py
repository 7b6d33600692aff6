"""The bench is one command, counts bytes as one does by hand, and says what it could not measure."""

import json
from pathlib import Path

import bench_injection
import pytest
import torch


def test_the_bytes_are_those_counted_by_hand() -> None:
    # 2 rows of 10 fp16: in 2 * 2 * 20, out 2 * 2 * 20 = 160; 3 directions and the norm's two vectors 5 * 20 = 100;
    # four knobs of 4 bytes for 2 * 3 = 96; 3 layer weights 12; the layer 4.
    assert bench_injection.bytes_moved(2, 3, 10, torch.float16) == 160 + 100 + 96 + 12 + 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the bench measures it, which takes a minute")
def test_without_a_gpu_the_bench_measures_the_plain_kernels_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_injection.main(["--results", str(tmp_path / "RESULTS.md"), "--runs", "2"])
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert last["gpu_bar"] is None and last["not_measured"] and last["copy_bytes_per_second"] > 0
    assert {row["concepts"] for row in last["rows"]} == {0, 1, 8, 32}
    for row in last["rows"]:
        floor = row["bytes"] / last["copy_bytes_per_second"]
        assert row["floor_us"] == pytest.approx(floor * 1e6, abs=0.01)
        assert row["share_of_copy"] == pytest.approx(floor * 1e6 / row["kernel_us"], abs=0.005)
    written = (tmp_path / "RESULTS.md").read_text()
    assert "## Not measured here" in written and "no CUDA device" in printed
