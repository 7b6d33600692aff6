"""Measure residual add + injection + LayerNorm against the bytes it must move: `python kernels/bench_injection.py`.

A step of one stream is bound by memory, and so is this kernel: per row it reads the stream and a block's contribution
and writes the stream and its norm, 4 * D numbers; per launch it reads C directions and the norm's weights, (C + 2) * D
numbers, and a few bytes of knobs. Over the bandwidth of a plain copy, measured in the same run, this is the floor.

Beside it runs the same injection as forward hooks would do it: one addition per concept after the residual add, then
LayerNorm. On a machine without CUDA the plain kernels are measured on one CPU thread. Writes RESULTS.md beside this
file, or where `--results` says; the last line is one JSON object. Every figure is a median of runs in turn.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from rfm_kernels.backend import kernels_for
from rfm_kernels.buffers import Injection
from torch import Tensor, nn

CONCEPTS = (0, 1, 8, 32)
BAR = 0.6
"""Share of the copy bandwidth that the kernel is to reach on a GPU, from BAR_ROWS rows of BAR_WIDTH on."""
BAR_ROWS, BAR_WIDTH = 64, 1024


@dataclass(frozen=True)
class Plan:
    """What is measured on one kind of device; `copied` bytes per copy."""

    dtype: torch.dtype
    rows: tuple[int, ...]
    widths: tuple[int, ...]
    copied: int


PLANS = {
    "cpu": Plan(torch.float32, (2, 64), (256, 1024), 1 << 26),
    "cuda": Plan(torch.float16, (2, 64, 1024, 8192), (1024, 2048), 1 << 29),
}


@dataclass(frozen=True)
class Row:
    """One shape: microseconds of the kernel, of the hooks and of the floor, and the share of the copy bandwidth."""

    rows: int
    width: int
    concepts: int
    bytes: int
    kernel_us: float
    hooks_us: float
    floor_us: float
    share_of_copy: float


def timed(subjects: list[Callable[[], object]], device: torch.device, runs: int) -> list[float]:
    """Run the subjects in turn: -> the median seconds of each. On CUDA the L2 cache is flushed before every run."""
    for subject in subjects:
        for _ in range(3):
            subject()
    taken: list[list[float]] = [[] for _ in subjects]
    flushed = torch.empty(1 << 28, dtype=torch.int8, device=device) if device.type == "cuda" else None
    for _ in range(runs):
        for subject, times in zip(subjects, taken, strict=True):
            if flushed is None:
                began = time.perf_counter()
                subject()
                times.append(time.perf_counter() - began)
                continue
            flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            subject()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
    return [median(times) for times in taken]


def copy_bandwidth(device: torch.device, plan: Plan, runs: int) -> float:
    """Bytes per second that a copy reads and writes together."""
    source = torch.ones(plan.copied, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    (seconds,) = timed([lambda: target.copy_(source)], device, runs)
    return 2 * plan.copied / seconds


def steered(rows: int, concepts: int, width: int, dtype: torch.dtype, device: torch.device) -> Injection:
    """Adding concepts, every one open on every row."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(1, concepts, width, generator=generator), dim=-1)
    ones = torch.ones(rows, concepts, device=device)
    return Injection(
        eta=ones * 0.1,
        gate=ones,
        mode=torch.zeros(rows, concepts, dtype=torch.int32, device=device),
        target=torch.zeros(rows, 1, concepts, device=device),
        layer_weights=torch.ones(1, concepts, device=device),
        directions=directions.to(device, dtype),
    )


def hooked(hidden: Tensor, contribution: Tensor, norm: nn.LayerNorm, injection: Injection) -> Tensor:
    """What one forward hook per concept does, then the norm."""
    h = hidden + contribution
    for concept in range(injection.concepts):
        h = h + 0.1 * injection.directions[0, concept]
    return norm(h)  # type: ignore[no-any-return]


def bytes_moved(rows: int, concepts: int, width: int, dtype: torch.dtype) -> int:
    """The bytes that one launch must read and write."""
    knobs = 16 * rows * concepts + 4 * concepts + 4  # eta, gate, mode, target; layer weights; layer
    return (4 * rows + concepts + 2) * width * dtype.itemsize + knobs


def measure(device: torch.device, plan: Plan, bandwidth: float, runs: int) -> list[Row]:
    """Measure every shape of the plan; `bandwidth` in bytes per second, medians of `runs`."""
    kernels, layer, found = kernels_for(device), torch.zeros(1, dtype=torch.int32, device=device), []
    for width in plan.widths:
        norm = nn.LayerNorm(width, dtype=plan.dtype, device=device).requires_grad_(False)
        for rows in plan.rows:
            hidden, contribution = torch.randn(2, rows, width, device=device).to(plan.dtype)
            for concepts in CONCEPTS:
                injection = steered(rows, concepts, width, plan.dtype, device)
                subjects: list[Callable[[], object]] = [
                    partial(kernels.add_inject_norm, hidden, contribution, norm, injection, layer),
                    partial(hooked, hidden, contribution, norm, injection),
                ]
                kernel, hooks = timed(subjects, device, runs)
                moved = bytes_moved(rows, concepts, width, plan.dtype)
                floor = moved / bandwidth
                kernel_us, hooks_us, floor_us = (round(seconds * 1e6, 2) for seconds in (kernel, hooks, floor))
                share = round(floor / kernel, 3)
                found.append(Row(rows, width, concepts, moved, kernel_us, hooks_us, floor_us, share))
    return found


def machine(device: torch.device) -> dict[str, str]:
    """The device and the versions that the figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, one thread"
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "not installed"
    return {"device": name, "torch": torch.__version__, "triton": triton, "python": platform.python_version()}


def unmeasured(device: torch.device) -> list[str]:
    """What this machine cannot tell."""
    if device.type == "cuda":
        return []
    return [
        "The Triton kernels on a GPU: this machine has no CUDA device, so the figures below are of the plain kernels. "
        f"The bar (at least {BAR:.0%} of the copy bandwidth from {BAR_ROWS} rows of {BAR_WIDTH} on) is open.",
        "The Triton kernels' correctness on a GPU: `TRITON_INTERPRET=0 python -m pytest -m gpu tests`. "
        "In Triton's interpreter and in compilation for sm_80 and sm_90 they are tested everywhere.",
    ]


def report(facts: dict[str, str], dtype: torch.dtype, bandwidth: float, found: list[Row], gaps: list[str]) -> str:
    """RESULTS.md."""
    lines = ["# Results of the kernels", "", "Written by `python kernels/bench_injection.py`; do not edit.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [f"- numbers: {str(dtype).removeprefix('torch.')}", f"- copy: {bandwidth / 1e9:.1f} GB/s, measured", ""]
    if gaps:
        lines += ["## Not measured here", "", *(f"- {gap}" for gap in gaps), ""]
    lines += [
        "## Residual add + injection + LayerNorm",
        "",
        "Medians in microseconds. The floor is the bytes that must move over the copy bandwidth; off a GPU a shape",
        "that fits a cache can be faster. Hooks are one addition per concept, then LayerNorm.",
        "",
        "| rows | width | concepts | bytes | kernel | hooks | floor | share of copy |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r.rows} | {r.width} | {r.concepts} | {r.bytes} | {r.kernel_us} | {r.hooks_us} | {r.floor_us} "
        f"| {r.share_of_copy:.1%} |"
        for r in found
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="measure the injection kernel against the bytes that it must move")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    parser.add_argument("--runs", type=int, default=60, help="runs of each subject, of which the median counts")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("no CUDA device: measuring the plain kernels on one CPU thread, the Triton kernels not at all")
    plan, facts, gaps = PLANS[device.type], machine(device), unmeasured(device)
    with torch.inference_mode():
        bandwidth = copy_bandwidth(device, plan, options.runs)
        found = measure(device, plan, bandwidth, options.runs)
    text = report(facts, plan.dtype, bandwidth, found, gaps)
    options.results.write_text(text)
    print(text)
    shares = [row.share_of_copy for row in found if row.rows >= BAR_ROWS and row.width >= BAR_WIDTH]
    verdict = {"bar": BAR, "least_share_of_copy": min(shares), "is_met": min(shares) >= BAR} if not gaps else None
    measured = {"copy_bytes_per_second": round(bandwidth), "rows": [asdict(row) for row in found]}
    print(json.dumps({**facts, "dtype": str(plan.dtype), **measured, "gpu_bar": verdict, "not_measured": gaps}))


if __name__ == "__main__":
    main()
