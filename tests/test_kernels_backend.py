"""Triton is never needed, is chosen where it can run, and compiles for GPUs that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rfm_kernels import backend, plain

ROOT = Path(__file__).parent.parent
BLOCKED = """
import sys
import rfm_kernels
assert "torch" not in sys.modules
class NoTriton:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTriton())
import torch
from rfm_kernels import backend, buffers, plain, reference
assert backend.kernels_for(torch.device("cpu")) is plain
assert "triton" not in sys.modules
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_triton_the_package_loads_and_the_plain_kernels_run() -> None:
    done = python("-W", "error", "-c", BLOCKED)
    assert done.returncode == 0, done.stderr


def test_cuda_gets_triton_s_kernels_and_everything_else_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="needs the package triton")
    from rfm_kernels import fused

    assert backend.kernels_for(torch.device("cuda")) is fused
    assert backend.kernels_for(torch.device("cpu")) is plain
    assert backend.kernels_for(torch.device("mps")) is plain
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.kernels_for(torch.device("cuda")) is plain


def test_every_kernel_compiles_for_sm_80_and_sm_90_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs the package triton")
    done = python("-W", "error", "-m", "tests.kernel_compilation", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert len(built) == 10
    for name, sizes in built.items():
        assert sizes["ptx"] > 1000 and sizes["cubin"] > 1000 and sizes["is_elf"], name
        # A Gumbel draw is the logarithm of a number near 1, where the fast approximation has no digits left.
        assert not sizes["approximates_logarithms"], name
