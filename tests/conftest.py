"""One torch thread for the whole run, Triton's interpreter, and the tiny checkpoint that most tests share."""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rfm_live.model.checkpoint import MusicGen

# Read when triton is first imported, by whatever test that is; TRITON_INTERPRET=0 runs the tests marked gpu instead.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and with them the programs that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint on disk: width 128, 3 layers, 4 codebooks of 64, causal codec."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_path: Path) -> "MusicGen":
    """The tiny checkpoint, loaded. Shared by the session: do not change its weights."""
    from rfm_live.model.checkpoint import load_checkpoint

    return load_checkpoint(tiny_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where RFM_LIVE_NO_SKIPS is set (CI), a skipped test is a failed one, unless it needs a GPU."""
    report = yield
    if report.skipped and os.environ.get("RFM_LIVE_NO_SKIPS") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, which is not allowed here: {report.longrepr}"
    return report
