"""`rfm-live play`: starts a performance and tells in a few lines what it found."""

import asyncio
import logging
import signal

from rich.text import Text

from rfm_live.bench.judgement import warning
from rfm_live.cli.console import console, errors
from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.errors import StartError
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder
from rfm_live.server.supervisor import Performance, PlayOptions, Started


def run_play(
    prompt: str | None,
    checkpoint: str,
    bank: str | None,
    seed: int,
    sink: str,
    device: str | None,
    host: str,
    osc_port: int,
    reply_port: int | None,
    http_port: int,
    token: str | None,
    buffer_ms: float,
    trust_pickle: bool,
    threads: str,
    precision: str,
    compute: str,
) -> None:
    """Play until Ctrl-C or SIGTERM. Raises StartError when it cannot begin."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    own_prompt = DEFAULT_PROMPT if checkpoint == EMBEDDED else ""
    options = PlayOptions(
        checkpoint=checkpoint_folder(checkpoint),
        bank=bank_file(bank, checkpoint),
        prompt=own_prompt if prompt is None else prompt,
        seed=seed,
        host=host,
        osc_port=osc_port,
        reply_port=reply_port,
        http_port=http_port,
        token=token,
        sink=sink,
        device=int(device) if device is not None and device.isdecimal() else device,
        buffer_ms=buffer_ms,
        trust_pickle=trust_pickle,
        threads=read_threads(threads),
        precision=precision,
        compute=compute,
    )
    console.print(f"rfm_live: loading {checkpoint} ...")
    asyncio.run(_perform(options, checkpoint))
    console.print("rfm_live: ended")


def read_threads(text: str) -> int | None:
    """Read "auto" as None, or a number of threads. Raises StartError for anything else."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise StartError(f"threads is '{text}', expected auto or 1..256")
    return int(text)


async def _perform(options: PlayOptions, name: str) -> None:
    performance = Performance(
        options,
        lambda started: _announce(options, name, started),
        lambda text: errors.print(text, style="yellow", soft_wrap=True),
    )
    loop = asyncio.get_running_loop()
    for number in _ending_signals():
        try:
            loop.add_signal_handler(number, performance.stop)
        except NotImplementedError:  # Windows: its event loop has no signal handlers
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(performance.stop))
    await performance.run()


def _ending_signals() -> list[signal.Signals]:
    """Ctrl-C, `kill`, and the terminal's end unless it is ignored, as under nohup."""
    ending = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


def _announce(options: PlayOptions, name: str, started: Started) -> None:
    engine, playout = started.engine, started.playout
    concepts = engine["concepts"]
    factor = f"{engine['real_time_factor']:.1f}x real time"
    threads = "1 thread" if engine["threads"] == 1 else f"{engine['threads']} threads"
    speed = f"{engine['precision']}, {factor}"
    lines = [
        f"  model    {name} on {engine['device']}, {threads}, {speed}, {len(concepts)} concepts",
        f"  prompt   {options.prompt or '(none)'}, seed {options.seed}",
        f"  sound    {playout['device']}, buffer {options.buffer_ms:.0f} ms",
        f"  osc      udp {options.host}:{started.osc_port}",
        Text.assemble("  page     ", (started.url, "bold")),
    ]
    if started.token:
        lines.append(f"  token    {started.token} (OSC clients send /token first)")
    lines.append(f"Playing after {started.seconds:.1f} s; Ctrl-C ends. Open the page, or send OSC:")
    if concepts and not started.token:
        knob = "note_c" if "note_c" in concepts else concepts[0]
        lines.append(f"  oscsend localhost {started.osc_port} /concept/{knob}/eta f 1.0")
    for line in lines:
        console.print(line, soft_wrap=True)
    if slow := warning(engine["real_time_factor"]):
        errors.print(f"  {slow}", style="yellow", soft_wrap=True)
