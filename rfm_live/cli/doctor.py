"""`rfm-live doctor`: what this machine has, and a measurement of the engine on it."""

import platform
import socket
import time

import typer
from rich.table import Table

from rfm_live.audio.devices import list_devices
from rfm_live.cli.console import console
from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.errors import AudioError, StartError
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder
from rfm_live.server.ports import bound_socket

FRAME_MS = 20.0
_WARM_FRAMES, _FRAMES = 60, 300
_PORTS = ((socket.SOCK_DGRAM, 9000, "OSC"), (socket.SOCK_STREAM, 9080, "page"))


def run_doctor(checkpoint: str, bank: str | None, trust_pickle: bool) -> None:
    """Print what was found; exit code 1 when the checkpoint is not real-time here."""
    table = Table("what", "found", "verdict", show_edge=False)
    table.add_row("python", platform.python_version(), "ok")
    table.add_row("sound", *_sound())
    for kind, port, name in _PORTS:
        table.add_row(f"port {port}", name, "free" if _is_free(kind, port) else "in use: choose another")
    p50, p95 = _measure(checkpoint, bank, trust_pickle, table)
    can_play = p95 < FRAME_MS
    factor = FRAME_MS / p50
    table.add_row(
        "frame of 20 ms", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms", f"{factor:.1f}x real time" if can_play else "too slow"
    )
    console.print(table)
    if not can_play:
        console.print(f"This machine cannot play '{checkpoint}' in real time: a frame takes {p95:.1f} ms of its 20 ms.")
        raise typer.Exit(1)
    console.print("Ready: rfm-live play")


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


def _measure(checkpoint: str, bank: str | None, trust_pickle: bool, table: Table) -> tuple[float, float]:
    """Step times p50 and p95 in ms of 300 frames on one thread, codec and limiter included."""
    folder, bank_path = checkpoint_folder(checkpoint), bank_file(bank, checkpoint)

    import numpy as np
    import torch

    from rfm_live.engine.defaults import default_settings
    from rfm_live.engine.player import Engine
    from rfm_live.model.checkpoint import load_checkpoint
    from rfm_live.steering.bank import load_bank

    torch.set_num_threads(1)
    model = load_checkpoint(folder, trust_pickle=trust_pickle)
    decoder = model.config.decoder
    concepts = None if bank_path is None else load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    table.add_row("torch", torch.__version__, "cpu, one thread")
    size = sum(parameter.numel() for parameter in model.decoder.parameters()) / 1e6
    shape = f"{decoder.layers} blocks of width {decoder.width}, {size:.1f} M, sha256 {model.sha256[:12]}"
    table.add_row("checkpoint", shape, "ok")
    table.add_row("bank", "none" if concepts is None else f"{len(concepts.names)} concepts", "ok")
    prompt = DEFAULT_PROMPT if checkpoint == EMBEDDED else ""
    engine = Engine(model, concepts, default_settings(folder, model.config, prompt=prompt))
    if concepts is not None:
        engine.apply(f"/concept/{concepts.names[0]}/eta", 0.5)
    times = []
    for frame in range(_WARM_FRAMES + _FRAMES):
        began = time.perf_counter()
        engine.advance()
        if frame >= _WARM_FRAMES:
            times.append(1000.0 * (time.perf_counter() - began))
    return float(np.percentile(times, 50)), float(np.percentile(times, 95))
