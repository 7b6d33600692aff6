"""Sound files that the tests of concept learning write: tones of known pitch and level. Used by several tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile


def tone(hertz: float, seconds: float, rate: int = 32_000, peak: float = 0.5) -> npt.NDArray[np.float32]:
    """A sine wave [N]."""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(file: Path, samples: npt.NDArray[np.floating], rate: int = 32_000, subtype: str | None = None) -> Path:
    """Write samples [N] or [N, channels] in the format that the file's name ends with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate, subtype=subtype)
    return file


def write_tones(folder: Path, hertz: Sequence[float], seconds: float = 1.0) -> Path:
    """One file for each frequency, `tone_440.wav` and so on."""
    for frequency in hertz:
        write(folder / f"tone_{frequency:g}.wav", tone(frequency, seconds))
    return folder


def frequency_hz(samples: npt.NDArray[np.floating], rate: int) -> float:
    """The strongest frequency of samples [N], to a fraction of rate / N."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    peak = int(spectrum.argmax())
    below, top, above = np.log(spectrum[peak - 1 : peak + 2] + 1e-12)
    return float((peak + 0.5 * (below - above) / (below - 2 * top + above)) * rate / len(samples))
