"""The control table: every address, its kind, range, unit, default, access and help, and the check of a value.

Who uses it: the board, every surface (OSC, WebSocket, web console) and the README's table. Server process; no I/O here.
Values live on float32, because that is what OSC carries: every surface shows the same number for one knob.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfm_live.errors import ControlError

Kind = Literal["f", "i", "s", "trigger"]
Access = Literal["rw", "r", "w"]
Value = float | int | str | bool
Reason = Literal[
    "unknown address", "read only", "write only", "wrong count", "wrong type", "not finite", "out of range",
    "oversized", "broken", "not admitted",
]  # fmt: skip

_CONCEPT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_INT32_MAX = 2**31 - 1
_PROMPT_CHARACTERS = 500


class Refused(ControlError):
    """A control message that was not taken; `reason` is what it is counted under."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Parameter:
    """One address. For kind "s" `low` and `high` bound the number of characters; for a trigger they are 0 and 1."""

    address: str
    kind: Kind
    low: float
    high: float
    default: Value
    unit: str
    access: Access
    help: str

    def check(self, value: object) -> Value:
        """Return `value` in this parameter's type. Raises Refused on a wrong type or a value outside the range.

        A float with an integral value passes for an int and a bool for 0 or 1, since faders send nothing else.
        A trigger takes any number: 0 is the release of a button and returns False.
        """
        if self.kind == "s":
            return self._check_text(value)
        if not isinstance(value, (bool, int, float)):
            raise Refused("wrong type", f"{self.address} is {shown(value)}, expected a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused("not finite", f"{self.address} is {value}, expected {self.domain}")
        if self.kind == "trigger":
            return value != 0
        if not self.low <= value <= self.high:
            raise Refused("out of range", f"{self.address} is {shown(value)}, expected {self.domain}")
        if self.kind == "f":
            return as_float32(value)
        if value != int(value):
            raise Refused("wrong type", f"{self.address} is {shown(value)}, expected a whole number, {self.domain}")
        return int(value)

    def _check_text(self, value: object) -> str:
        if not isinstance(value, str):
            raise Refused("wrong type", f"{self.address} is {shown(value)}, expected text")
        if not self.low <= len(value) <= self.high:
            raise Refused("out of range", f"{self.address} has {len(value)} characters, expected {self.domain}")
        if "\0" in value or not _is_encodable(value):
            raise Refused("wrong type", f"{self.address} is {shown(value)}, expected text without NUL or surrogates")
        return value

    @property
    def domain(self) -> str:
        """The range in words, such as "-2..2" or "at most 500 characters"."""
        if self.kind == "s":
            return f"at most {self.high:g} characters"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.low:.10g}..{self.high:.10g}{unit}"


class ControlTable:
    """All addresses for one bank's concepts, in a fixed order. Iterating gives the parameters."""

    def __init__(
        self,
        concepts: Sequence[str],
        gates: Sequence[float] | None = None,
        defaults: Mapping[str, Value] | None = None,
    ) -> None:
        """`gates` are the bank's, one per concept, left out 1; `defaults` by address go before those of the table.

        Raises ControlError for a wrong or repeated name, Refused for a default that its address does not allow.
        """
        for name in concepts:
            if not _CONCEPT_NAME.fullmatch(name):
                raise ControlError(f"concept name {shown(name)} is not lower case letters, digits and underscores")
        self.concepts = tuple(concepts)
        gates = [1.0] * len(concepts) if gates is None else gates
        parameters: list[Parameter] = []
        for name, gate in zip(concepts, gates, strict=True):
            parameters += _concept_parameters(name, gate)
        parameters += _MASTER
        self._by_address = {parameter.address: parameter for parameter in parameters}
        if len(self._by_address) != len(parameters):
            raise ControlError(f"concept names repeat among {', '.join(concepts)}")
        for address, value in (defaults or {}).items():
            parameter = self.lookup(address)
            self._by_address[address] = replace(parameter, default=parameter.check(value))

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._by_address.values())

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, address: object) -> bool:
        return address in self._by_address

    def lookup(self, address: str) -> Parameter:
        """Raises Refused when there is no such address."""
        try:
            return self._by_address[address]
        except KeyError:
            raise Refused("unknown address", f"unknown address {shown(address)}") from None

    def check(self, address: str, args: Sequence[object]) -> Value:
        """The value that the message `address args` sets. Raises Refused when the table does not allow it."""
        parameter = self.lookup(address)
        if parameter.access == "r":
            raise Refused("read only", f"{address} is read only")
        if parameter.kind == "trigger" and not args:
            return True
        if len(args) != 1:
            raise Refused("wrong count", f"{address} takes 1 value, got {len(args)}")
        return parameter.check(args[0])


def as_float32(value: float) -> float:
    """Round to the nearest float32, the precision of an OSC float."""
    (rounded,) = struct.unpack(">f", struct.pack(">f", value))
    return float(rounded)


def shown(value: object) -> str:
    """A short, printable form of foreign input for an error text; of a container only its kind."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and abs(value) >= 2**64:
        return "an integer of more than 64 bits"
    if value is None or isinstance(value, (str, bytes, int)):
        text = ascii(value[:60] if isinstance(value, (str, bytes)) else value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return f"a {type(value).__name__}"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _concept_parameters(name: str, gate: float) -> list[Parameter]:
    at = f"/concept/{name}"
    return [
        Parameter(f"{at}/eta", "f", -2, 2, 0.0, "", "rw", "strength; 1 is a full musical effect, negative pushes away"),
        Parameter(f"{at}/on", "i", 0, 1, 1, "", "rw", "switch"),
        Parameter(f"{at}/solo", "i", 0, 1, 0, "", "rw", "only soloed concepts act"),
        Parameter(f"{at}/gate", "f", 0, 1, as_float32(gate), "", "rw", "chance that a frame is steered"),
        Parameter(f"{at}/period", "i", 1, 500, 1, "frames", "rw", "steer every so many frames"),
        Parameter(f"{at}/slew", "f", 0, 10000, 60.0, "ms", "rw", "glide of eta"),
    ]


_MASTER = (
    Parameter("/strength", "f", 0, 2, 1.0, "", "rw", "all etas together"),
    Parameter("/budget", "f", 0, 4, 4.0, "", "rw", "ceiling of the summed push"),
    Parameter("/prompt", "s", 0, _PROMPT_CHARACTERS, "", "", "rw", "text that describes the music; empty for none"),
    Parameter("/temperature", "f", 0, 4, 1.0, "", "rw", "randomness of the sampling; 0 takes the likeliest token"),
    Parameter("/top_k", "i", 0, 2048, 250, "tokens", "rw", "how many of the likeliest tokens may be drawn; 0 is all"),
    Parameter("/guidance", "f", 1, 10, 3.0, "", "rw", "how closely the prompt is followed; 1 is off"),
    Parameter("/seed", "i", 0, _INT32_MAX, 0, "", "rw", "seed of every random draw"),
    Parameter("/window", "f", 1, 60, 30.0, "s", "rw", "how much of the music the model hears; at most what it can"),
    Parameter("/forget", "trigger", 0, 1, False, "", "w", "start again from a short, unsteered context"),
    Parameter("/transport/play", "i", 0, 1, 1, "", "rw", "play or hold"),
    Parameter("/panic", "trigger", 0, 1, False, "", "w", "every eta to 0 and a clean context; the sound goes on"),
    Parameter("/gain", "f", -60, 12, 0.0, "dB", "rw", "output level"),
    Parameter("/status/frame", "i", 0, _INT32_MAX, 0, "frames", "r", "frames generated since the start"),
    Parameter("/status/step_ms", "f", 0, 60000, 0.0, "ms", "r", "time to generate one frame of 20 ms"),
    Parameter("/status/buffer_ms", "f", 0, 600000, 0.0, "ms", "r", "generated and not yet played"),
    Parameter("/status/underruns", "i", 0, _INT32_MAX, 0, "", "r", "times the playout ran dry"),
    Parameter("/status/real_time_factor", "f", 0, 100000, 0.0, "", "r", "speed of generation; 1 is real time"),
    Parameter("/sync", "trigger", 0, 1, False, "", "w", "send the full state to the asker"),
    Parameter("/error", "s", 0, 1000, "", "", "r", "answer to a message that was not taken"),
)
