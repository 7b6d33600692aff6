"""The machine that figures belong to: its processor, memory, load, and the versions of what ran."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "numpy", "triton")


@dataclass(frozen=True)
class Machine:
    """`processor` by name, `cores` that this process may use, `memory_bytes` in all (0 where nobody tells), `load`: the
    processes that wanted a core in the last minute, None where nobody counts them; `versions` by library."""

    processor: str
    cores: int
    memory_bytes: int
    load: float | None
    system: str
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """One line per fact."""
        memory = f"{self.memory_bytes / 1e9:.0f} GB" if self.memory_bytes else "memory unknown"
        load = "" if self.load is None else f", load {self.load:.1f} at the start"
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return [f"{self.processor}, {self.cores} cores for this process, {memory}{load}", f"{self.system}; {libraries}"]


def this_machine(device_name: str | None = None) -> Machine:
    """Look at the machine; `device_name` is the accelerator's, where one is used."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return Machine(
        device_name or _processor(),
        usable_cores(),
        _memory_bytes(),
        round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        f"{platform.system()} {platform.machine()}",
        versions,
    )


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes() -> int | None:
    """Memory that this process holds, None where the system does not tell (it is Linux that does)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Memory that programs can still take, None where the system does not tell (it is Linux that does)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * found[0] if found else None


@contextmanager
def other_core_busy() -> Iterator[bool]:
    """Keep one other core busy with an endless loop meanwhile -> whether there is another core."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    others = sorted(set(range(os.cpu_count() or 1)) - (here if len(here) == 1 else set()))
    if (os.cpu_count() or 1) < 2 or not others:
        yield False
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {others[-1]})
        yield True
    finally:
        process.kill()
        process.wait()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
