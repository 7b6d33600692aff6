"""The OSC codec: round trips, python-osc and hand-made bytes as references, and broken packets."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage as ForeignMessage
from pythonosc.osc_message_builder import build_msg
from pythonosc.osc_packet import OscPacket

from rfm_live.control import osc
from rfm_live.control.osc import OscMessage
from rfm_live.control.table import ControlTable, Parameter, Refused, Value

TABLE = ControlTable(["note_c", "chord_minor"])
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
ARGUMENT = st.one_of(
    st.floats(width=32, allow_nan=False), st.integers(-(2**31), 2**31 - 1), TEXT, st.booleans(), st.none()
)
POINTS = st.lists(st.from_regex(r"[1-9]?[0-9](\.[0-9])?:(0\.[0-9]|1)", fullmatch=True), max_size=4).map(" ".join)
ADDRESS = st.sampled_from([parameter.address for parameter in TABLE]) | TEXT.map(lambda text: f"/{text}")


def values_of(parameter: Parameter) -> st.SearchStrategy[Value]:
    if parameter.kind == "f":
        return st.floats(parameter.low, parameter.high, width=32)
    if parameter.kind == "i":
        return st.integers(int(parameter.low), int(parameter.high))
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    if parameter.pattern:
        return POINTS
    return TEXT if parameter.kind == "s" else st.just(True)


@pytest.mark.parametrize("parameter", list(TABLE), ids=lambda parameter: parameter.address)
@given(data=st.data())
def test_every_address_of_the_table_survives_the_round_trip_in_bytes_and_in_value(
    parameter: Parameter, data: st.DataObject
) -> None:
    value = data.draw(values_of(parameter))
    packet = osc.encode(OscMessage(parameter.address, (value,)))
    (message,) = osc.decode(packet)
    assert osc.encode(message) == packet
    assert message == OscMessage(parameter.address, (value,)) and type(message.args[0]) is type(value)
    if parameter.access != "r":
        assert TABLE.check(message.address, message.args) == value


@given(ADDRESS, st.lists(ARGUMENT, max_size=5))
def test_any_message_survives_the_round_trip_and_python_osc_reads_it(address: str, args: list[Value | None]) -> None:
    message = OscMessage(address, tuple(args))
    packet = osc.encode(message)
    assert osc.decode(packet) == [message]
    foreign = ForeignMessage(packet)
    assert (foreign.address, foreign.params) == (address, args)


def test_a_packet_made_by_hand_after_the_specification_is_read() -> None:
    # OSC 1.0 specification, example: "/oscillator/4/frequency" with the float 440.0
    packet = bytes.fromhex("2f6f7363696c6c61746f722f342f6672657175656e6379002c66000043dc0000")
    assert osc.decode(packet) == [OscMessage("/oscillator/4/frequency", (440.0,))]
    assert osc.encode(OscMessage("/oscillator/4/frequency", (440.0,))) == packet


def test_a_question_has_no_arguments_with_and_without_type_tags() -> None:
    assert osc.decode(b"/gain\0\0\0") == [OscMessage("/gain")]
    assert osc.decode(b"/gain\0\0\0,\0\0\0") == [OscMessage("/gain")]


def test_the_other_number_tags_and_the_impulse_are_understood() -> None:
    packet = b"/x\0\0,hdTFNI\0" + struct.pack(">qd", 2**40, 0.1)
    assert osc.decode(packet) == [OscMessage("/x", (2**40, 0.1, True, False, None, True))]


def test_nested_bundles_are_flattened_in_order_whatever_their_time_tags_say() -> None:
    inner = OscBundleBuilder(2_000_000_000)
    inner.add_content(build_msg("/b", 2))
    outer = OscBundleBuilder(0)
    for content in (build_msg("/a", 1), inner.build(), build_msg("/c", 3)):
        outer.add_content(content)
    messages = osc.decode(outer.build().dgram)
    assert messages == [OscMessage("/a", (1,)), OscMessage("/b", (2,)), OscMessage("/c", (3,))]


@given(st.dictionaries(ADDRESS, st.floats(width=32, allow_nan=False) | TEXT, max_size=80))
def test_a_state_comes_back_whole_from_bundles_of_one_ethernet_frame(state: dict[str, Value]) -> None:
    packets = osc.encode_state(state)
    assert all(len(packet) <= osc.BUNDLE_BYTES for packet in packets)
    ours = [message for packet in packets for message in osc.decode(packet)]
    assert {message.address: message.args[0] for message in ours} == state and len(ours) == len(state)
    foreign = [timed.message for packet in packets for timed in OscPacket(packet).messages]
    assert {message.address: message.params[0] for message in foreign} == state


def bundle(*elements: tuple[int, bytes]) -> bytes:
    return b"#bundle\0" + bytes(8) + b"".join(struct.pack(">i", size) + element for size, element in elements)


DEEP = b"/a\0\0"
for _ in range(50):
    DEEP = bundle((len(DEEP), DEEP))


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (b"", "neither a message nor a bundle"),
        (b"hello", "neither a message nor a bundle"),
        (b"/abc", "broken"),
        (b"/a\xff\0", "can't decode byte"),
        (b"/a\0\0f\0\0\0", "do not start with a comma"),
        (b"/a\0\0,f\0\0", "12 bytes described, 8 received"),
        (b"/a\0\0,f\0\0" + bytes(8), "12 bytes described, 16 received"),
        (b"/a\0\0,[]\0", "type tag '\\['"),
        (b"/a\0\0,b\0\0" + bytes(4), "type tag 'b'"),
        (b"#bundle\0\0\0", "no time tag"),
        (bundle((-4, b"/a\0\0")), "element of -4 bytes where 4 are left"),
        (bundle((0, b"")), "element of 0 bytes"),
        (bundle((400, b"/a\0\0")), "element of 400 bytes where 4 are left"),
        (bundle((4, b"/a\0\0")) + b"\0", "broken"),
        (DEEP, "nest deeper than 8"),
    ],
)
def test_a_broken_packet_is_refused_as_a_whole(packet: bytes, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        osc.decode(packet)
    assert caught.value.reason == "broken"


def test_an_oversized_packet_is_refused_before_it_is_read() -> None:
    with pytest.raises(Refused, match="has 16385 bytes, expected at most 16384") as caught:
        osc.decode(bytes(16385))
    assert caught.value.reason == "oversized"


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"#bundle\0" + bytes(8) + tail))
def test_random_bytes_are_messages_or_refused(packet: bytes) -> None:
    try:
        messages = osc.decode(packet)
    except Refused as error:
        assert len(str(error)) < 300
        return
    assert all(message.address.startswith("/") for message in messages)


@given(st.sampled_from(list(TABLE)), st.integers(0, 40), st.integers(0, 255))
def test_one_flipped_byte_is_another_message_or_refused(parameter: Parameter, place: int, byte: int) -> None:
    packet = bytearray(osc.encode(OscMessage(parameter.address, (parameter.default,))))
    packet[place % len(packet)] = byte
    try:
        osc.decode(bytes(packet))
    except Refused as error:
        assert error.reason == "broken"
