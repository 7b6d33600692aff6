"""The WebSocket messages: round trips, an independent packing as reference, and wrong messages."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfm_live.control import wire
from rfm_live.control.table import ControlTable, Refused
from rfm_live.control.wire import Audio, Get, Hello, Message, Problem, Set, Status, Subscribe, ValueIs

TABLE = ControlTable(["note_c"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUE = st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.dictionaries(TEXT, VALUE, max_size=8)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Set, TEXT, VALUE),
    st.builds(Get, TEXT),
    st.builds(Subscribe, st.booleans(), st.booleans()),
    st.builds(Hello, st.lists(st.sampled_from(list(TABLE)), max_size=4).map(tuple), VALUES, st.integers(1, 192000)),
    st.builds(ValueIs, TEXT, VALUE),
    st.builds(Status, VALUES),
    st.builds(Audio, st.integers(0, 2**53), st.binary(max_size=100)),
    st.builds(Problem, TEXT),
)


@given(MESSAGES)
def test_every_message_survives_the_round_trip_in_bytes_and_in_content(message: Message) -> None:
    data = wire.encode(message)
    assert wire.decode(data) == message
    assert wire.encode(wire.decode(data)) == data


@pytest.mark.parametrize("parameter", list(TABLE), ids=lambda parameter: parameter.address)
def test_every_address_of_the_table_survives_the_round_trip(parameter) -> None:  # type: ignore[no-untyped-def]
    for message in (Set(parameter.address, parameter.default), ValueIs(parameter.address, parameter.default)):
        back = wire.decode(wire.encode(message))
        assert back == message and type(back.value) is type(parameter.default)


def test_messages_are_plain_maps_that_any_msgpack_reader_understands() -> None:
    assert msgpack.unpackb(wire.encode(Set("/gain", -6.0))) == {"op": "set", "address": "/gain", "value": -6.0}
    samples = np.linspace(-1, 1, 5, dtype="<f4")
    content = msgpack.unpackb(wire.encode(Audio(640, samples.tobytes())))
    assert (content["op"], content["start"]) == ("audio", 640)
    assert np.array_equal(np.frombuffer(content["samples"], "<f4"), samples)
    hello = msgpack.unpackb(wire.encode(Hello(tuple(TABLE), {"/gain": 0.0}, 32000)))
    assert hello["table"][0]["address"] == "/concept/note_c/eta" and hello["table"][0]["high"] == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "message is a list, expected a map"),
        (3, "message is 3, expected a map"),
        ({}, "message op is None, expected one of set, get"),
        ({"op": "fly"}, "message op is 'fly'"),
        ({"op": ["set"]}, "message op is a list"),
        ({"op": "set", "address": "/gain"}, "message 'set' has 'address', expected address, value"),
        ({"op": "get", "address": "/gain", "more": 1}, "message 'get' has 'address, more', expected address"),
        ({"op": "get", "address": 3}, "message 'get' has address 3"),
        ({"op": "set", "address": "/gain", "value": None}, "message 'set' has value None"),
        ({"op": "set", "address": "/gain", "value": [1]}, "message 'set' has value a list"),
        ({"op": "subscribe", "audio": 1, "status": True}, "message 'subscribe' has audio 1"),
        ({"op": "status", "values": {"/a": None}}, "message 'status' has values a dict"),
        ({"op": "audio", "start": True, "samples": b""}, "message 'audio' has start True"),
        ({"op": "hello", "table": [{}], "values": {}, "sample_rate": 1}, "table entry is a dict"),
    ],
)
def test_a_message_of_another_shape_is_refused(content: object, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        wire.decode(msgpack.packb(content))
    assert caught.value.reason == "broken"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", b"\x91" * 5000, b"\xd9\x01\xff", b"\xc7\x03\xff\x00\x00\x00"])
def test_what_is_not_msgpack_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        wire.decode(data)
    assert caught.value.reason == "broken"


def test_an_oversized_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(Refused, match="has 17 bytes, expected at most 16") as caught:
        wire.decode(bytes(17), limit=16)
    assert caught.value.reason == "oversized"


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        wire.decode(data, limit=wire.MAX_INBOUND_BYTES)
    except Refused as error:
        assert len(str(error)) < 300
