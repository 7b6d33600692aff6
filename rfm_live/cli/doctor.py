"""`rfm-live doctor`: what this machine has, which checkpoints it can play, and how soon a knob is heard."""

import json
import platform
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from rfm_live.audio.devices import list_devices
from rfm_live.bench.judgement import LEAST_BUFFER_MS
from rfm_live.bench.machine import Machine, this_machine
from rfm_live.cli.console import console
from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.errors import AudioError, StartError
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder
from rfm_live.server.ports import bound_socket

if TYPE_CHECKING:
    from rfm_live.bench.trial import Trial

_LONGEST_BUFFER_MS = 10_000.0
_CROWDED = 1.5  # wall clock over processor time from which on others are to be named
_PORTS = ((socket.SOCK_DGRAM, 9000, "OSC"), (socket.SOCK_STREAM, 9080, "page"))


@dataclass(frozen=True)
class Findings:
    """What the doctor tells: the first trial is of the checkpoint that was asked for, others are of published sizes."""

    machine: Machine
    sound: tuple[str, str]
    ports: dict[int, bool]
    checkpoint: str
    bank: str
    bandwidth: dict[str, float]
    buffer_ms: float
    trials: "list[Trial]"


@dataclass(frozen=True)
class Asked:
    """What is to be judged: the options of `play` by the same names."""

    checkpoint: str
    bank: str | None
    buffer_ms: float
    trust_pickle: bool
    precision: str
    compute: str


def run_doctor(asked: Asked, as_json: bool) -> None:
    """Print what was found; exit code 1 when the checkpoint cannot be played here with this buffer.

    Raises StartError for a buffer, a precision or a device that `play` does not take, and for names that stand for
    nothing.
    """
    buffer_ms = asked.buffer_ms
    if not LEAST_BUFFER_MS <= buffer_ms <= _LONGEST_BUFFER_MS:
        raise StartError(f"buffer is {buffer_ms:g} ms, expected {LEAST_BUFFER_MS:g}..{_LONGEST_BUFFER_MS:g}")
    found = _examine(asked)
    if as_json:
        console.print(json.dumps(_told(found), indent=2), soft_wrap=True)
    else:
        _print(found, asked)
    if not found.trials[0].judgement.can_play:
        raise typer.Exit(1)


def _examine(asked: Asked) -> Findings:
    checkpoint = asked.checkpoint
    folder, bank_path = checkpoint_folder(checkpoint), bank_file(asked.bank, checkpoint)

    import torch

    from rfm_live.bench.trial import conditions, try_checkpoint, try_sizes
    from rfm_live.engine.defaults import default_settings
    from rfm_live.engine.opening import compute_device
    from rfm_live.engine.player import Engine
    from rfm_live.model.checkpoint import load_checkpoint
    from rfm_live.model.products import PRECISIONS
    from rfm_live.steering.bank import load_bank

    torch.set_num_threads(1)
    device = compute_device(asked.compute)
    machine = this_machine(torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    memory_bytes = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else machine.memory_bytes
    model = load_checkpoint(folder, device, trust_pickle=asked.trust_pickle)
    model.decoder.prepare(asked.precision)
    decoder = model.config.decoder
    concepts = None if bank_path is None else load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    prompt = DEFAULT_PROMPT if checkpoint == EMBEDDED else ""
    engine = Engine(model, concepts, default_settings(folder, model.config, prompt=prompt))
    given = conditions(device, asked.buffer_ms, memory_bytes)
    precisions = PRECISIONS if device.type == "cpu" else ("fp32",)  # elsewhere `play` computes in this one
    trials = [try_checkpoint(checkpoint, engine, model, given), *try_sizes(given, precisions)]
    size = sum(parameter.numel() for parameter in model.decoder.parameters()) / 1e6
    return Findings(
        machine,
        _sound(),
        {port: _is_free(kind, port) for kind, port, _ in _PORTS},
        f"{decoder.layers} blocks of width {decoder.width}, {size:.1f} M, sha256 {model.sha256[:12]}",
        "none" if concepts is None else f"{len(concepts.names)} concepts",
        asdict(given.speed),
        asked.buffer_ms,
        trials,
    )


def _print(found: Findings, asked: Asked) -> None:
    about = Table("what", "found", "verdict", show_edge=False)
    about.add_row("python", platform.python_version(), "ok")
    about.add_row("sound", *found.sound)
    for _, port, name in _PORTS:
        about.add_row(f"port {port}", name, "free" if found.ports[port] else "in use: choose another")
    about.add_row("torch", found.machine.versions["torch"], f"{asked.compute}, one thread")
    about.add_row(
        "memory", f"{found.bandwidth['copy'] / 1e9:.1f} GB/s copied, {found.bandwidth['read'] / 1e9:.1f} read", "ok"
    )
    about.add_row("checkpoint", found.checkpoint, "ok")
    about.add_row("bank", found.bank, "ok")
    trial = found.trials[0]
    frame, judgement = trial.frame, trial.judgement
    assert frame is not None  # the checkpoint that was asked for is measured
    times = f"p50 {frame.p50_ms:.1f} ms, p95 {frame.p95_ms:.1f} ms, p99 {frame.p99_ms:.1f} ms"
    verdict = f"{judgement.real_time_factor:.1f}x real time"
    about.add_row("frame of 20 ms", f"{times}, of which the codec {trial.codec_ms:.1f} ms", verdict)
    console.print(about)
    console.print()
    console.print(_trial_table(found))
    for size in found.trials[1:]:
        if size.judgement.reason:
            console.print(f"{size.checkpoint}, {size.precision}: {size.judgement.reason}.", soft_wrap=True)
    console.print()
    if trial.processor_ms is not None and frame.p50_ms > _CROWDED * trial.processor_ms:
        words = f"a frame takes {trial.processor_ms:.1f} ms where it is left alone"
        console.print(f"Other programs use this core now: {words}.", soft_wrap=True)
    if judgement.can_play:
        words = f"with {found.buffer_ms:g} ms of buffer a knob is heard after {judgement.delay_ms:.0f} ms"
        console.print(f"Ready: rfm-live play; {words} and the device's own.", soft_wrap=True)
    else:
        console.print(f"This machine cannot play '{asked.checkpoint}': {judgement.reason}.", soft_wrap=True)


def _trial_table(found: Findings) -> Table:
    columns = ("checkpoint", "precision", "device", "frame", "real time", "plays", "least buffer", "knob to sound")
    table = Table(*columns, show_edge=False)
    for trial in found.trials:
        judgement = trial.judgement
        if trial.frame is None:
            frame = f"at least {trial.floor_ms:.0f} ms"
            factor = f"at most {judgement.real_time_factor:.2f}x"
        else:
            about = "about " if trial.basis == "estimated" else ""
            frame, factor = f"{about}{trial.frame.p50_ms:.1f} ms", f"{about}{judgement.real_time_factor:.2f}x"
        least = "" if judgement.least_buffer_ms is None else f"{judgement.least_buffer_ms:g} ms"
        delay = f"{judgement.delay_ms:.0f} ms" if judgement.can_play else ""
        plays = "yes" if judgement.can_play else "no"
        table.add_row(trial.checkpoint, trial.precision, trial.device, frame, factor, plays, least, delay)
    return table


def _told(found: Findings) -> dict[str, Any]:
    """The findings as JSON has them."""
    return {
        **asdict(found),
        "sound": {"found": found.sound[0], "verdict": found.sound[1]},
        "ports": {str(port): is_free for port, is_free in found.ports.items()},
    }


def _sound() -> tuple[str, str]:
    try:
        cards = list_devices()
    except AudioError as error:
        return str(error), "plays in the browser"
    if not cards:
        return "no sound card with an output", "plays in the browser"
    default = next((card for card in cards if card.is_default), cards[0])
    return f"{default.name} ({default.host}, {default.rate} Hz)", "ok"


def _is_free(kind: socket.SocketKind, port: int) -> bool:
    try:
        bound_socket("trial", kind, "127.0.0.1", port).close()  # as `play` binds it
    except StartError:
        return False
    return True
