"""OSC 1.0 packets: bytes to messages and back. Server process, sans-IO.

Who uses it: the OSC surface. python-osc reads and writes the fields; the packet walk is ours, because python-osc's
loops for ever on a bundle element of negative size and only logs an unknown type tag. Bundles are flattened and their
time tags ignored: every message is meant for the present.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.parsing import osc_types

from rfm_live.control.table import Refused, Value, shown

MAX_PACKET_BYTES = 16384
MAX_BUNDLE_DEPTH = 8
BUNDLE_BYTES = 1400  # one Ethernet frame

_BUNDLE = b"#bundle\x00"
_IMMEDIATELY = b"\x00\x00\x00\x00\x00\x00\x00\x01"
_FIELDS: dict[str, Callable[[bytes, int], tuple[int | float | str, int]]] = {
    "i": osc_types.get_int,
    "h": osc_types.get_int64,
    "f": osc_types.get_float,
    "d": osc_types.get_double,
    "s": osc_types.get_string,
    "S": osc_types.get_string,
}
_CONSTANTS = {"T": True, "F": False, "N": None, "I": True}


@dataclass(frozen=True)
class OscMessage:
    """An address and its arguments; no arguments is a question for the value."""

    address: str
    args: tuple[Value | None, ...] = ()


def decode(packet: bytes) -> list[OscMessage]:
    """All messages of one packet, in order. Raises Refused ("oversized" or "broken") for the packet as a whole."""
    if len(packet) > MAX_PACKET_BYTES:
        raise Refused("oversized", f"OSC packet has {len(packet)} bytes, expected at most {MAX_PACKET_BYTES}")
    try:
        return _decode_element(packet, depth=0)
    except (osc_types.ParseError, UnicodeDecodeError) as error:
        raise Refused("broken", f"OSC packet {shown(packet[:24])} is broken: {error}") from None


def encode(message: OscMessage) -> bytes:
    """One message as a packet: float as f, int as i, text as s, bool as T or F, None as N."""
    builder = OscMessageBuilder(message.address)
    for argument in message.args:
        builder.add_arg(argument)
    return builder.build().dgram


def encode_state(values: Mapping[str, Value]) -> list[bytes]:
    """Many values as few immediate bundles, each small enough for one Ethernet frame (unless one value is not)."""
    return _pack(encode(OscMessage(address, (value,))) for address, value in values.items())


def _pack(messages: Iterable[bytes]) -> list[bytes]:
    packets: list[bytes] = []
    for message in messages:
        element = osc_types.write_int(len(message)) + message
        if packets and len(packets[-1]) + len(element) <= BUNDLE_BYTES:
            packets[-1] += element
        else:
            packets.append(_BUNDLE + _IMMEDIATELY + element)
    return packets


def _decode_element(element: bytes, depth: int) -> list[OscMessage]:
    if element.startswith(_BUNDLE):
        return _decode_bundle(element, depth)
    if element.startswith(b"/"):
        return [_decode_message(element)]
    raise osc_types.ParseError("neither a message nor a bundle")


def _decode_bundle(bundle: bytes, depth: int) -> list[OscMessage]:
    if depth >= MAX_BUNDLE_DEPTH:
        raise osc_types.ParseError(f"bundles nest deeper than {MAX_BUNDLE_DEPTH}")
    at = len(_BUNDLE) + len(_IMMEDIATELY)
    if len(bundle) < at:
        raise osc_types.ParseError("no time tag")
    messages: list[OscMessage] = []
    while at < len(bundle):
        size, at = osc_types.get_int(bundle, at)
        if not 0 < size <= len(bundle) - at:
            raise osc_types.ParseError(f"element of {size} bytes where {len(bundle) - at} are left")
        messages += _decode_element(bundle[at : at + size], depth + 1)
        at += size
    return messages


def _decode_message(packet: bytes) -> OscMessage:
    address, at = osc_types.get_string(packet, 0)
    if at == len(packet):
        return OscMessage(address)
    tags, at = osc_types.get_string(packet, at)
    if not tags.startswith(","):
        raise osc_types.ParseError("type tags do not start with a comma")
    args: list[Value | None] = []
    for tag in tags[1:]:
        if tag in _FIELDS:
            argument, at = _FIELDS[tag](packet, at)
            args.append(argument)
        elif tag in _CONSTANTS:
            args.append(_CONSTANTS[tag])
        else:
            raise osc_types.ParseError(f"type tag {shown(tag)}, expected one of {''.join([*_FIELDS, *_CONSTANTS])}")
    if at != len(packet):
        raise osc_types.ParseError(f"{at} bytes described, {len(packet)} received")
    return OscMessage(address, tuple(args))
