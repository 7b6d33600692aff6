"""What the playout can be told. Made from the plain dict that the supervisor sends across the process boundary."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rfm_live.errors import AudioError


@dataclass(frozen=True)
class PlayoutOptions:
    """`sink` and `device` as in `choose_sink`; lengths on the tape in its samples."""

    sink: str = "auto"
    device: str | int | None = None
    block: int = 0  # of the sound card; 0 leaves it to the device
    start_samples: int = 3200  # on the tape before the first sound: 100 ms
    resume_samples: int = 1280  # on the tape before the sound comes back after a gap: two frames
    lead_ms: float = 10.0  # kept ready for the device beside two of its blocks
    fade_ms: float = 5.0

    def __post_init__(self) -> None:
        for name in ("block", "start_samples", "resume_samples", "lead_ms", "fade_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise AudioError(f"playout option '{name}' is {value!r}, expected a number >= 0")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "PlayoutOptions":
        """Raises AudioError for an unknown name."""
        known = {field.name for field in fields(cls)}
        for name in options:
            if name not in known:
                raise AudioError(f"playout option '{name}' is unknown, expected one of {', '.join(sorted(known))}")
        return cls(**options)
