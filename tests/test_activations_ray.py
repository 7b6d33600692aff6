"""Activations by Ray: two local workers write the bytes of one process; what stops a worker is told in one line."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rfm_live.concepts.activations import compute_activations
from rfm_live.concepts.activations_ray import run_on_ray
from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen
from tests.reading import READING, collection
from tests.sounds import write_tones

MOST_SECONDS = 400
"""Ray starts in 10 s on two free cores; here they may be shared by many."""


def test_two_workers_write_what_one_process_writes_though_one_fails(
    tiny_path: Path, tiny_model: MusicGen, tmp_path: Path
) -> None:
    tones = write_tones(tmp_path / "tones", [110.0, 220.0, 330.0])
    program = ["-W", "error", "-m", "tests.ray_reading", str(tiny_path), str(tones), "30", str(tmp_path / "ray")]
    with (tmp_path / "told").open("w+") as told, (tmp_path / "errors").open("w+") as errors:
        # Files and not pipes: Ray's daemons would hold those open.
        process = subprocess.Popen(
            [sys.executable, *program],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=errors,
        )
        try:
            process.wait(timeout=MOST_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, (tmp_path / "errors").read_text()
    progress, failure = (tmp_path / "told").read_text().splitlines()
    assert progress.split()[0] == "0" and progress.split()[-1] == "30" and len(progress.split()) == 5
    assert failure.startswith("a Ray worker failed: ") and failure.endswith(
        "No such file or directory: '/nowhere/shard.part'"
    )
    compute_activations(tiny_model, collection(tones, 30), tmp_path / "local", READING)
    files = [sorted((tmp_path / name).glob("*.safetensors")) for name in ("ray", "local")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]] and len(files[0]) == 4
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_ray_needs_workers_and_a_checkpoint_on_disk(tiny_model: MusicGen, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="workers are 0, expected 1 or more"):
        run_on_ray(0)
    tones = write_tones(tmp_path / "tones", [110.0])
    homeless = replace(tiny_model, path=None)
    with pytest.raises(ClipError, match="load the checkpoint from a folder, and this model came from memory"):
        compute_activations(homeless, collection(tones, 1), tmp_path / "store", READING, run=run_on_ray(1))
