"""Prompts encoded in a process of its own: the same states, whatever becomes of the process."""

import contextlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from rfm_live.engine.text_process import TextProcess
from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import MusicGen
from tests.performance import environment


def test_states_are_the_encoder_s_own_and_a_killed_process_is_started_anew(tiny_model: MusicGen) -> None:
    with contextlib.closing(TextProcess(tiny_model.path)) as process:
        expected = tiny_model.text_encoder().encode("slow piano")
        assert expected is not None
        for _ in range(2):
            encoded = process.encode("slow piano")
            assert encoded is not None
            torch.testing.assert_close(encoded[0], expected[0])
            assert torch.equal(encoded[1], expected[1])
            (child,) = multiprocessing.active_children()
            child.kill()
            child.join()
    assert not multiprocessing.active_children()
    with pytest.raises(CheckpointError, match="has been closed"):
        process.encode("too late")


def test_a_checkpoint_without_text_encoder_is_told(tmp_path: Path) -> None:
    with contextlib.closing(TextProcess(tmp_path)) as process, pytest.raises(CheckpointError, match=r"config\.json"):
        process.encode("slow piano")


ENGINE = """
import multiprocessing, os, sys, time
from pathlib import Path
from rfm_live.engine.text_process import TextProcess
if __name__ == "__main__":
    TextProcess(Path(sys.argv[1])).start()
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def test_it_ends_with_an_engine_that_is_killed(tiny_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    command = [sys.executable, str(script), str(tiny_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as engine:
        assert engine.stdout is not None
        text = psutil.Process(int(engine.stdout.readline()))
        engine.kill()
    _, alive = psutil.wait_procs([text], timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
