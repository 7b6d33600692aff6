"""The control table: every address, its kind, range, unit, default, access and help, and the check of a value.

Who uses it: the board, every surface (OSC, WebSocket, web console) and the README's table. Server process; no I/O here.
Values live on float32, because that is what OSC carries: every surface shows the same number for one knob.
"""

import math
import re
import struct
import textwrap
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
_LAYER_FORMS = ("uniform", "top_k", "exponential", "linear")
_POINTS_CHARACTERS = 500
_POINT = r"[0-9]{1,3}(\.[0-9]{1,6})?:(0(\.[0-9]{1,6})?|1(\.0{1,6})?)"
_POINTS = rf"({_POINT}( {_POINT})*)?"


class Refused(ControlError):
    """A control message that was not taken; `reason` is what it is counted under."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Parameter:
    """One address. For kind "s" `low` and `high` bound the number of characters; for a trigger they are 0 and 1.

    A text with `choices` is one of them; one with a `pattern` matches this regular expression as a whole.
    """

    address: str
    kind: Kind
    low: float
    high: float
    default: Value
    unit: str
    access: Access
    help: str
    choices: tuple[str, ...] = ()
    pattern: str = ""

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
        if not self.choices and not self.low <= len(value) <= self.high:
            raise Refused("out of range", f"{self.address} has {len(value)} characters, expected {self.domain}")
        if "\0" in value or not _is_encodable(value):
            raise Refused("wrong type", f"{self.address} is {shown(value)}, expected text without NUL or surrogates")
        if (self.choices and value not in self.choices) or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise Refused("out of range", f"{self.address} is {shown(value)}, expected {self.domain}")
        return value

    @property
    def domain(self) -> str:
        """The range in words, such as "-2..2", "one of add, blend, clamp" or "at most 500 characters"."""
        if self.choices:
            named = textwrap.shorten(", ".join(filter(None, self.choices)), 100, placeholder=" ...")
            return " or ".join(filter(None, [named and f"one of {named}", "empty text" if "" in self.choices else ""]))
        if self.pattern:
            return f"text such as '0:0 2.5:1', at most {self.high:g} characters, seconds 0..999, shares 0..1"
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
        parameters += _steering_parameters(self.concepts)
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
        _choice(f"{at}/mode", ("add", "blend", "clamp"), "how it acts: push, mix of equal length, or pull to target"),
        Parameter(f"{at}/target", "f", 0, 1, 1.0, "", "rw", "level that clamp pulls to; 0.5 is usual, 0 and 1 extreme"),
        _choice(f"{at}/rows", ("both", "conditional"), "under guidance: steer both rows, or the one with the prompt"),
        *_layer_parameters(f"{at}/layers", ("all", *_LAYER_FORMS), "which blocks it acts on; all is as /layers says"),
        _choice(
            f"{at}/schedule",
            ("constant", "linear_up", "linear_down", "exponential", "logistic", "sine", "breakpoints"),
            "curve that eta is multiplied by, from now on",
        ),
        Parameter(f"{at}/schedule_seconds", "f", 0.125, 600, 30.0, "s", "rw", "length of the curve"),
        Parameter(
            f"{at}/schedule_points",
            "s", 0, _POINTS_CHARACTERS, "", "", "rw",
            "breakpoints, seconds:share with a share of 0 to 1; empty for none", pattern=_POINTS,
        ),
        Parameter(f"{at}/schedule_start", "trigger", 0, 1, False, "", "w", "begin the curve again"),
    ]  # fmt: skip


def _layer_parameters(at: str, forms: tuple[str, ...], meaning: str) -> list[Parameter]:
    return [
        _choice(at, forms, meaning),
        Parameter(f"{at}_k", "i", 1, 64, 8, "blocks", "rw", "how many blocks top_k takes, those that tell it best"),
        Parameter(
            f"{at}_kappa", "f", 0.0625, 1, as_float32(0.95), "", "rw", "share = score ** (1 / kappa) in exponential"
        ),
        Parameter(f"{at}_w0", "f", 0, 4, 1.0, "", "rw", "factor of every block's share"),
    ]


def _choice(address: str, choices: tuple[str, ...], meaning: str) -> Parameter:
    return Parameter(address, "s", 0, max(map(len, choices)), choices[0], "", "rw", meaning, choices)


def _steering_parameters(concepts: tuple[str, ...]) -> list[Parameter]:
    names = ("", *concepts)
    return [
        Parameter("/strength", "f", 0, 2, 1.0, "", "rw", "all etas together"),
        Parameter("/budget", "f", 0, 4, 4.0, "", "rw", "ceiling of the summed push"),
        _choice("/budget_of", ("eta", "norm"), "what the ceiling is on: the sum of |eta|, or the length of the push"),
        _choice(
            "/orthogonal",
            ("off", "gram_schmidt", "least_squares", "dual"),
            "how concepts that overlap are kept apart: the first turned goes first, all alike, or by their readings",
        ),
        *_layer_parameters(
            "/layers", _LAYER_FORMS, "which blocks concepts act on, by how well their probe reads there"
        ),
        _choice("/crossfade/from", names, "concept that a cross-fade leaves; empty for none"),
        _choice("/crossfade/to", names, "concept that it leads to"),
        Parameter("/crossfade/seconds", "f", 0.125, 600, 30.0, "s", "rw", "length of the cross-fade"),
        _choice("/crossfade/shape", ("linear", "logistic", "exponential", "cosine"), "curve of the cross-fade"),
        Parameter("/crossfade/on", "i", 0, 1, 0, "", "rw", "begin the cross-fade; 0 gives both concepts back"),
    ]


_MASTER = (
    Parameter("/prompt", "s", 0, _PROMPT_CHARACTERS, "", "", "rw", "text that describes the music; empty for none"),
    Parameter("/temperature", "f", 0, 4, 1.0, "", "rw", "randomness of the sampling; 0 takes the likeliest token"),
    Parameter("/top_k", "i", 0, 2048, 250, "tokens", "rw", "how many of the likeliest tokens may be drawn; 0 is all"),
    Parameter(
        "/top_p", "f", 0, 1, 1.0, "", "rw", "of these, the likeliest that hold this share of the probability; 1 is all"
    ),
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
