"""Sound cards as PortAudio sees them, loaded lazily. Used by the CLI's device list and by the sound card sink."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from rfm_live.errors import AudioError


@dataclass(frozen=True)
class Device:
    """One output device; `name` or `index` selects it."""

    index: int
    name: str
    host: str  # "ALSA", "JACK Audio Connection Kit", "Core Audio", "Windows WASAPI", ...
    channels: int
    rate: int
    is_default: bool


def import_sounddevice() -> ModuleType:
    """Load sounddevice and, with it, the system's PortAudio. Raises AudioError that says what to install."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise AudioError(
            f"the sound card needs the Python package sounddevice ({error}): pip install sounddevice"
        ) from error
    except OSError as error:
        raise AudioError(
            f"the sound card needs the PortAudio library ({error}): on Debian and Ubuntu, apt install libportaudio2; "
            "elsewhere, the package portaudio"
        ) from error


def list_devices() -> list[Device]:
    """All devices with an output. Raises AudioError without PortAudio."""
    sounddevice = import_sounddevice()
    hosts = sounddevice.query_hostapis()
    try:
        default = sounddevice.query_devices(kind="output")["index"]
    except (ValueError, sounddevice.PortAudioError):  # there is none
        default = -1
    return [
        Device(
            index=card["index"],
            name=card["name"],
            host=hosts[card["hostapi"]]["name"],
            channels=card["max_output_channels"],
            rate=int(card["default_samplerate"]),
            is_default=card["index"] == default,
        )
        for card in sounddevice.query_devices()
        if card["max_output_channels"] > 0
    ]
