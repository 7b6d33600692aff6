"""`rfm-live render`: the engine in this process, without clock or devices, into a sound file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from rfm_live.cli.console import console
from rfm_live.control.table import ControlTable, Value
from rfm_live.errors import ControlError, StartError
from rfm_live.places import bank_file, checkpoint_folder

FRAME_RATE_HZ = 50


@dataclass(frozen=True)
class Setting:
    """One `--set`: an address, the text of its value, and the second at which it takes effect."""

    address: str
    value: str
    seconds: float


def parse_setting(text: str) -> Setting:
    """Read "NAME=VALUE" or "NAME=VALUE@SECONDS"; NAME is a concept (its eta) or an address that starts with a slash.

    Raises:
        ControlError: it has another form.
    """
    name, equals, rest = text.partition("=")
    value, _, when = rest.rpartition("@") if "@" in rest else (rest, "", "0")
    try:
        seconds = float(when)
    except ValueError:
        seconds = -1.0
    if not (name and equals and value and 0.0 <= seconds < float("inf")):
        raise ControlError(f"setting '{text}' is not NAME=VALUE or NAME=VALUE@SECONDS")
    return Setting(name if name.startswith("/") else f"/concept/{name}/eta", value, seconds)


def read_value(table: ControlTable, setting: Setting) -> Value:
    """The setting's value, checked against the control table. Raises ControlError."""
    if table.lookup(setting.address).kind == "s":
        return table.check(setting.address, [setting.value])
    try:
        number = float(setting.value)
    except ValueError:
        raise ControlError(f"{setting.address} is '{setting.value}', expected a number") from None
    return table.check(setting.address, [number])


def run_render(
    prompt: str,
    seconds: float,
    seed: int,
    settings: list[str],
    output: Path,
    checkpoint: str,
    bank: str | None,
    trust_pickle: bool,
    precision: str,
    compute: str,
) -> None:
    """Render `seconds` of music into `output`.

    Raises:
        StartError: a length, file name, device or precision that cannot be; ControlError: a wrong setting;
        CheckpointError; BankError.
    """
    check_output(seconds, output)
    parsed = [parse_setting(text) for text in settings]
    for item in parsed:
        if item.seconds >= seconds:
            raise ControlError(f"{item.address} is set at {item.seconds:g} s, the music ends at {seconds:g} s")
    ControlTable(()).check("/prompt", [prompt])
    ControlTable(()).check("/seed", [seed])
    folder, bank_path = checkpoint_folder(checkpoint), bank_file(bank, checkpoint)

    import torch

    from rfm_live.engine.defaults import default_settings
    from rfm_live.engine.opening import compute_device
    from rfm_live.engine.player import Engine
    from rfm_live.model.checkpoint import load_checkpoint
    from rfm_live.steering.bank import load_bank

    torch.set_num_threads(1)
    model = load_checkpoint(folder, compute_device(compute), trust_pickle=trust_pickle)
    decoder = model.config.decoder
    concepts = None if bank_path is None else load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    table = ControlTable(() if concepts is None else concepts.names)
    events = [(round(item.seconds * FRAME_RATE_HZ), item.address, read_value(table, item)) for item in parsed]
    model.decoder.prepare(precision)
    engine = Engine(model, concepts, default_settings(folder, model.config, prompt=prompt, seed=seed))
    began = time.monotonic()
    with _sound_file(output, engine.sample_rate) as file:
        count = round(seconds * engine.sample_rate)
        for frame in track(range(-(-count // engine.hop)), "rendering", console=console, transient=True):
            for _, address, value in (event for event in events if event[0] == frame):
                engine.apply(address, value)
            file.write(engine.advance()[: count - frame * engine.hop])
    speed = seconds / (time.monotonic() - began)
    console.print(f"wrote {output}: {seconds:g} s, seed {seed}, {speed:.1f}x real time", soft_wrap=True)


def check_output(seconds: float, output: Path) -> None:
    """Raises StartError for a length or a file name that cannot be."""
    if not 0.0 < seconds <= 36_000.0:
        raise StartError(f"length is {seconds:g} s, expected more than 0, at most 36000")
    if output.suffix.lower() not in (".wav", ".flac"):
        raise StartError(f"output '{output}' ends in '{output.suffix}', expected .wav or .flac")
    if not output.absolute().parent.is_dir():
        raise StartError(f"output '{output}': its folder does not exist")


@contextmanager
def _sound_file(output: Path, rate: int) -> Iterator[Any]:
    """A 24-bit sound file that takes the name `output` once it is whole; until then it is NAME.part, gone on failure.

    Raises StartError when it cannot be written.
    """
    import soundfile

    part = output.with_name(output.name + ".part")
    try:
        with soundfile.SoundFile(part, "w", rate, 1, "PCM_24", format=output.suffix[1:].upper()) as file:
            yield file
        part.replace(output)
    except (OSError, soundfile.SoundFileError) as error:
        raise StartError(f"output '{output}' cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
