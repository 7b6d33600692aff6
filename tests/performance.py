"""A running `rfm-live play` as its users start it: a process of its own. Used by the end-to-end tests."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60.0


class Performance:
    """The process, its printed lines, and the ports that it took."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process, self._path = process, path
        self.osc_port, self.http_port = 0, 0

    @property
    def printed(self) -> str:
        return self._path.read_text()

    def wait_until_playing(self) -> None:
        """Wait until it says that it plays; fail with what was printed when it ends before."""
        deadline = time.monotonic() + _START_SECONDS
        while "Playing after" not in self.printed:
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.printed}"
            assert time.monotonic() < deadline, f"not playing after {_START_SECONDS} s: {self.printed}"
            time.sleep(0.02)
        osc, http = re.search(r"udp \S+:(\d+)", self.printed), re.search(r"http://\S+?:(\d+)/", self.printed)
        assert osc and http, self.printed
        self.osc_port, self.http_port = int(osc[1]), int(http[1])

    def end(self, number: int = signal.SIGINT) -> float:
        """Send a signal and wait -> seconds that the end took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - began


def command(*arguments: str) -> list[str]:
    """The command line of `rfm-live` with this interpreter."""
    return [sys.executable, "-m", "rfm_live", *arguments]


def environment() -> dict[str, str]:
    """This environment, with the checkout's packages importable in the child and plain text output."""
    root = Path(__file__).parent.parent
    paths = [str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200", "NO_COLOR": "1"}


@contextmanager
def playing(folder: Path, *arguments: str, wait: bool = True) -> Iterator[Performance]:
    """Run `rfm-live play` on free ports until the block ends."""
    path = folder / "printed.txt"
    ports: Sequence[str] = ("--osc-port", "0", "--reply-port", "0", "--port", "0")
    with path.open("w") as output:
        process = subprocess.Popen(
            command("play", *ports, *arguments),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment(), text=True,
        )  # fmt: skip
        performance = Performance(process, path)
        try:
            if wait:
                performance.wait_until_playing()
            yield performance
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
