"""`rfm-live bench`: the engine measured beside transformers and against memory, on this machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rfm_live.bench.machine import this_machine
from rfm_live.bench.report import document, json_line
from rfm_live.cli.console import console, errors
from rfm_live.errors import StartError
from rfm_live.places import EMBEDDED

if TYPE_CHECKING:
    import torch

_QUICK_MINUTES = 0.05
_UNFINISHED = "what else was asked for: the run was cut off"


def run_bench(
    sections: list[str], shapes: list[str], minutes: float, is_quick: bool, device_name: str, output: Path | None
) -> None:
    """Measure, print tables and one JSON line; write the tables to `output`, anew after every measurement.

    Raises StartError for wrong options.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise StartError(f"'{output}' cannot be written: its folder does not exist")

    import torch

    from rfm_live.bench.run import SECTIONS, SHAPES, Options, run

    torch.set_num_threads(1)
    device = _device(device_name)
    options = Options(
        tuple(sections) or SECTIONS,
        tuple(shapes) or ((EMBEDDED,) if is_quick else SHAPES),
        min(minutes, _QUICK_MINUTES) if is_quick else minutes,
        is_quick,
    )
    machine = this_machine(torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    _silence_transformers()
    command = shlex.join(_command(sections, shapes, minutes, is_quick, device_name))
    for found, left_out in run(options, device, lambda text: errors.print(f"measuring {text}", soft_wrap=True)):
        if output is not None:
            so_far = document(command, machine, list(found.values()), [*left_out, _UNFINISHED])
            output.write_text(so_far, encoding="utf-8")
    text = document(command, machine, list(found.values()), left_out)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    console.print(text, soft_wrap=True)
    console.print(json_line(machine, found, left_out), soft_wrap=True)


def _device(name: str) -> "torch.device":
    """Raises StartError for a device that is not here."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise StartError(f"device '{name}' is not on this machine: {str(error).splitlines()[0]}") from error
    return device


def _command(sections: list[str], shapes: list[str], minutes: float, is_quick: bool, device: str) -> list[str]:
    """The command line that repeats this run."""
    words = ["rfm-live", "bench", *sections]
    for shape in shapes:
        words += ["--shape", shape]
    if "stream" in sections or not sections:
        words += ["--minutes", f"{minutes:g}"]
    words += ["--device", device] if device != "cpu" else []
    return [*words, "--quick"] if is_quick else words


def _silence_transformers() -> None:
    """Its warnings about pad tokens and its progress bars tell nothing about the time."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
