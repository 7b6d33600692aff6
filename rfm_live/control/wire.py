"""WebSocket messages: msgpack maps to typed messages and back. Server process, sans-IO.

Who uses it: the web surface; web/wire.js is its twin in the browser. Each message is one map whose "op" names it.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias, get_args

import msgpack

from rfm_live.control.table import Access, Kind, Parameter, Refused, Value, shown

MAX_INBOUND_BYTES = 16384


@dataclass(frozen=True)
class Set:
    """Client: set a value; for a trigger, pull it."""

    address: str
    value: Value


@dataclass(frozen=True)
class Get:
    """Client: ask for a value."""

    address: str


@dataclass(frozen=True)
class Subscribe:
    """Client: which streams this client wants from now on."""

    audio: bool
    status: bool


@dataclass(frozen=True)
class Hello:
    """Server, once, first: the whole table and the present values."""

    table: tuple[Parameter, ...]
    values: dict[str, Value]
    sample_rate: int


@dataclass(frozen=True)
class ValueIs:
    """Server: a value changed, or the answer to Get."""

    address: str
    value: Value


@dataclass(frozen=True)
class Status:
    """Server: the measurements, 20 times a second."""

    values: dict[str, Value]


@dataclass(frozen=True)
class Audio:
    """Server: played samples, float32 little endian, the first at position `start` of the stream."""

    start: int
    samples: bytes


@dataclass(frozen=True)
class Problem:
    """Server: a message was not taken, or something else went wrong."""

    text: str


Message: TypeAlias = Set | Get | Subscribe | Hello | ValueIs | Status | Audio | Problem

_OPS: dict[str, type[Message]] = {
    "set": Set,
    "get": Get,
    "subscribe": Subscribe,
    "hello": Hello,
    "value": ValueIs,
    "status": Status,
    "audio": Audio,
    "error": Problem,
}
_OP_OF = {message: op for op, message in _OPS.items()}


def encode(message: Message) -> bytes:
    """One message as bytes."""
    if isinstance(message, Hello):
        content = {**vars(message), "table": [asdict(parameter) for parameter in message.table]}
    else:
        content = vars(message)
    packed: bytes = msgpack.packb({"op": _OP_OF[type(message)], **content})
    return packed


def decode(data: bytes, limit: int | None = None) -> Message:
    """One message from bytes of at most `limit`. Raises Refused ("oversized" or "broken")."""
    if limit is not None and len(data) > limit:
        raise Refused("oversized", f"message has {len(data)} bytes, expected at most {limit}")
    try:
        content = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise Refused("broken", f"message {shown(data[:24])} is not msgpack: {error}") from None
    if not isinstance(content, dict):
        raise Refused("broken", f"message is {shown(content)}, expected a map")
    op = content.pop("op", None)
    kind = _OPS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise Refused("broken", f"message op is {shown(op)}, expected one of {', '.join(_OPS)}")
    expected = {field.name: field.type for field in fields(kind)}
    if content.keys() != expected.keys():
        got = shown(", ".join(map(str, content)))
        raise Refused("broken", f"message '{op}' has {got}, expected {', '.join(expected)}")
    return kind(**{name: _check_field(op, name, expected[name], value) for name, value in content.items()})


def _check_field(op: str, name: str, expected: Any, value: object) -> Any:
    if expected == tuple[Parameter, ...] and isinstance(value, list):
        return tuple(_check_parameter(entry) for entry in value)
    if expected == dict[str, Value] and isinstance(value, dict):
        if all(isinstance(key, str) and isinstance(entry, Value) for key, entry in value.items()):
            return value
    elif expected == Value and isinstance(value, Value):
        return value
    elif type(value) is expected:
        return value
    raise Refused("broken", f"message '{op}' has {name} {shown(value)}, expected another type")


def _check_parameter(entry: object) -> Parameter:
    names = {field.name for field in fields(Parameter)}
    if not isinstance(entry, dict) or entry.keys() != names:
        raise Refused("broken", f"table entry is {shown(entry)}, expected a map of {', '.join(sorted(names))}")
    numbers = all(type(entry[name]) in (int, float) for name in ("low", "high"))
    texts = all(isinstance(entry[name], str) for name in ("address", "unit", "help", "pattern"))
    known = entry["kind"] in get_args(Kind) and entry["access"] in get_args(Access)
    choices = entry["choices"]
    are_texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not (numbers and texts and known and are_texts and isinstance(entry["default"], Value)):
        raise Refused("broken", f"table entry {shown(entry['address'])} has a field of another type")
    return Parameter(**{**entry, "choices": tuple(choices)})
