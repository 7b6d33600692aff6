"""The web surface over real HTTP and WebSocket: control, status, audio, who is let in, and slow clients."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from rfm_live.control import wire
from rfm_live.control.board import ControlBoard
from rfm_live.control.table import ControlTable
from rfm_live.control.wire import Audio, Get, Hello, Message, Problem, Set, Status, Subscribe, ValueIs
from rfm_live.errors import StartError
from rfm_live.server.admission import Admission, is_loopback
from rfm_live.server.audio_feed import AudioFeed
from rfm_live.server.hub import Hub
from rfm_live.server.outbox import MAX_ANSWERS, MAX_AUDIO_MESSAGES, Outbox
from rfm_live.server.web import WebServer

PATIENCE = 5.0
ETA = "/concept/note_c/eta"


class NoiseSource:
    """A stream of known noise whose play head the test moves."""

    def __init__(self, seconds: float = 4.0) -> None:
        self.noise = np.random.default_rng(3).standard_normal(int(32000 * seconds)).astype(np.float32)
        self.played = 0
        self.underruns = 2

    @property
    def written(self) -> int:
        return self.played + 3200

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        if start < self.written - 64000:
            raise IndexError("overwritten")
        return self.noise[np.arange(start, start + count) % len(self.noise)]


class Stage:
    """A running server with its hub and audio source."""

    def __init__(self, host: str = "127.0.0.1", token: str | None = None) -> None:
        self.told: list[tuple[str, object]] = []
        self.board = ControlBoard(ControlTable(["note_c", "note_d"]))
        self.source = NoiseSource()
        self.hub = Hub(self.board, lambda address, value: self.told.append((address, value)), tape=self.source)
        self.server = WebServer(self.hub, host, 0, token, self.source)

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}/ws"


def on_stage(play: Callable[[Stage], Awaitable[None]], host: str = "127.0.0.1", token: str | None = None) -> None:
    async def run() -> None:
        on = Stage(host, token)
        await on.server.start()
        try:
            await asyncio.wait_for(play(on), 20)
        finally:
            started = time.monotonic()
            await on.server.stop()
            assert time.monotonic() - started < 1.0

    asyncio.run(run())


async def receive(client: ClientConnection) -> Message:
    data = await asyncio.wait_for(client.recv(decode=False), PATIENCE)
    assert isinstance(data, bytes)
    return wire.decode(data)


async def send(client: ClientConnection, message: Message) -> None:
    await client.send(wire.encode(message))


async def ask(client: ClientConnection, address: str) -> Message:
    await send(client, Get(address))
    return await receive(client)


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def fetch(port: int, path: str, host: str = "localhost") -> tuple[int, str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), head.lower(), body


def test_the_first_message_is_the_table_with_the_present_values() -> None:
    async def play(on: Stage) -> None:
        on.hub.handle(ETA, [0.5], "osc:1")
        async with connect(on.socket_url) as client:
            assert await receive(client) == Hello(tuple(on.board.table), on.board.full_state(), 32000)

    on_stage(play)


def test_a_client_sets_and_asks_and_the_others_are_shown_the_change() -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as one, connect(on.socket_url) as two:
            await receive(one), await receive(two)
            await send(one, Set(ETA, 0.75))
            assert await receive(two) == ValueIs(ETA, 0.75)
            assert await ask(one, ETA) == ValueIs(ETA, 0.75)
            assert on.told == [(ETA, 0.75)]
            on.hub.handle("/prompt", ["rain"], "osc:127.0.0.1:5")
            assert await receive(one) == await receive(two) == ValueIs("/prompt", "rain")

    on_stage(play)


def test_trouble_that_nobody_asked_for_is_told_to_every_client() -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as one, connect(on.socket_url) as two:
            await receive(one), await receive(two)
            on.hub.tell_trouble("the engine has stopped by itself")
            assert await receive(one) == await receive(two) == Problem("the engine has stopped by itself")

    on_stage(play)


def test_a_question_never_pulls_a_trigger() -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as client:
            await receive(client)
            assert await ask(client, "/panic") == Problem("/panic has no value to ask for")
            assert on.told == []
            await send(client, Set("/panic", True))
            assert await ask(client, "/gain") == ValueIs("/gain", 0.0)
            assert on.told == [("/panic", True)]

    on_stage(play)


def test_a_refused_value_is_answered_with_the_reason_and_with_what_holds() -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as client:
            await receive(client)
            await send(client, Set(ETA, 9.0))
            assert await receive(client) == Problem(f"{ETA} is 9, expected -2..2")
            assert await receive(client) == ValueIs(ETA, 0.0)

    on_stage(play)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xc1", "broken"),
        ("text", "broken"),
        (b"", "broken"),
        (bytes(20000), "oversized"),
        (wire.encode(Status({})), "broken"),
        (wire.encode(Set("/no", 1.0)), "unknown address"),
        (wire.encode(Set("/gain", float("nan"))), "not finite"),
    ],
)
def test_a_bad_message_is_answered_and_counted_and_the_connection_stays(data: bytes | str, reason: str) -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as client:
            await receive(client)
            await client.send(data)
            assert isinstance(await receive(client), Problem)
            assert on.board.refused == {reason: 1}
            while (message := await ask(client, "/seed")) != ValueIs("/seed", 0):
                assert message == ValueIs("/gain", 0.0)

    on_stage(play)


def test_measurements_come_to_those_who_asked_for_them() -> None:
    async def play(on: Stage) -> None:
        async with connect(on.socket_url) as client, connect(on.socket_url) as other:
            await receive(client), await receive(other)
            await send(client, Subscribe(audio=False, status=True))
            await ask(client, "/gain")
            on.hub.engine_status({"frame": 9, "step_ms": 5.0})
            assert await receive(client) == Status(
                {
                    "/status/frame": 9,
                    "/status/step_ms": 5.0,
                    "/status/real_time_factor": 4.0,
                    "/status/buffer_ms": 100.0,
                    "/status/underruns": 2,
                }
            )
            assert await ask(other, "/status/frame") == ValueIs("/status/frame", 9)

    on_stage(play)


def test_a_listener_gets_every_sample_that_is_played_from_the_present_on() -> None:
    async def play(on: Stage) -> None:
        on.source.played = 12345
        async with connect(on.socket_url) as client:
            await receive(client)
            await send(client, Subscribe(audio=True, status=False))
            await ask(client, "/gain")
            await until(lambda: on.server._feed is not None and on.server._feed._position is not None)
            position = 12345
            for step in (100, 640, 3000, 17, 6400, 1, 639):
                on.source.played += step
                while position + 640 <= on.source.played:
                    message = await receive(client)
                    assert isinstance(message, Audio) and message.start == position
                    samples = np.frombuffer(message.samples, "<f4")
                    assert np.array_equal(samples, on.source.noise[position : position + 640])
                    position += 640
            assert position == 12345 + 16 * 640

    on_stage(play)


def test_a_client_that_does_not_read_loses_audio_alone_and_does_not_hold_up_the_stop() -> None:
    async def play(on: Stage) -> None:
        deaf = socket.create_connection(("127.0.0.1", on.server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow = await connect(on.socket_url, sock=deaf, max_queue=1)
        async with connect(on.socket_url, max_queue=None) as fast:
            await receive(fast)
            for client in (slow, fast):
                await send(client, Subscribe(audio=True, status=False))
            await ask(fast, "/gain")
            outbox = next(iter(client.outbox for client in on.server._clients if client.name == "web:1"))
            await until(lambda: on.server._feed is not None and on.server._feed._position is not None)
            position = 0
            while outbox.dropped_audio < 40:
                on.source.played += 6400
                while position < on.source.played:
                    message = await receive(fast)
                    assert isinstance(message, Audio) and message.start == position
                    position += 640
            assert all(not client.outbox.dropped_audio for client in on.server._clients if client.name != "web:1")
        stopping = time.monotonic()
        await on.server.stop()
        assert time.monotonic() - stopping < 1.0
        slow.transport.abort()
        with pytest.raises(ConnectionClosed):
            while True:
                await slow.recv()

    on_stage(play)


def test_the_page_and_its_files_are_served_and_nothing_else() -> None:
    async def play(on: Stage) -> None:
        status, head, body = await fetch(on.server.port, "/")
        assert status == 200 and "text/html" in head and "content-security-policy" in head and "<html" in body
        status, head, _ = await fetch(on.server.port, "/console.js?v=1")
        assert status == 200 and "text/javascript" in head
        for path in ("/missing.js", "/../errors.py", "/%2e%2e/errors.py", "/..%2ferrors.py", "/__init__.py"):
            assert (await fetch(on.server.port, path))[0] == 404

    on_stage(play)


def test_a_page_of_another_site_is_refused_even_after_dns_rebinding() -> None:
    async def play(on: Stage) -> None:
        port = on.server.port
        for origin, host in (
            ("http://evil.example", "127.0.0.1"),
            ("null", "127.0.0.1"),
            (f"http://localhost:{port}", "127.0.0.1"),
            (f"http://evil.example:{port}", "evil.example"),
        ):
            with pytest.raises(InvalidStatus, match="HTTP 403"):
                async with connect(f"ws://{host}:{port}/ws", host="127.0.0.1", port=port, origin=Origin(origin)):
                    pass
        assert (await fetch(port, "/", host="evil.example"))[0] == 403
        async with connect(on.socket_url, origin=Origin(f"http://127.0.0.1:{port}")) as client:
            assert isinstance(await receive(client), Hello)

    on_stage(play)


def test_a_server_that_others_can_reach_wants_its_token() -> None:
    async def play(on: Stage) -> None:
        assert on.server.token and f"?token={on.server.token}" in on.server.url
        for wrong in ("", "?token=", f"?token={on.server.token}x", "?token=%00%ff"):
            with pytest.raises(InvalidStatus, match="HTTP 403"):
                async with connect(on.socket_url + wrong):
                    pass
        async with connect(f"{on.socket_url}?token={on.server.token}") as client:
            assert isinstance(await receive(client), Hello)

    on_stage(play, host="0.0.0.0")


def test_a_given_token_holds_on_loopback_too() -> None:
    async def play(on: Stage) -> None:
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            async with connect(on.socket_url):
                pass
        async with connect(f"{on.socket_url}?token=sesame") as client:
            assert isinstance(await receive(client), Hello)

    on_stage(play, token="sesame")


@given(st.text() | st.none(), st.text() | st.none(), st.text() | st.none())
def test_no_header_makes_the_admission_raise_and_no_wrong_token_passes(
    host: str | None, origin: str | None, token: str | None
) -> None:
    admission = Admission("0.0.0.0", "right")
    assert admission.refusal_of_page(host) is None
    if token != "right":
        assert admission.refusal_of_socket(host, None, token)
    Admission("127.0.0.1", None).refusal_of_socket(host, origin, token)


def test_only_loopback_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.com", "")))


def test_a_taken_port_is_one_line_that_says_so() -> None:
    async def play(on: Stage) -> None:
        second = WebServer(on.hub, port=on.server.port)
        with pytest.raises(StartError, match=f"web port {on.server.port} is in use on 127.0.0.1, end the other"):
            await second.start()
        await second.stop()

    on_stage(play)


def test_the_outbox_keeps_the_newest_value_of_each_address_and_never_grows() -> None:
    outbox = Outbox()
    for step in range(1000):
        outbox.put_value("/gain", float(step))
        outbox.put_value("/seed", step)
        outbox.put_status({"/status/frame": step})
        outbox.put_audio(wire.encode(Audio(step, b"")))
        outbox.put_problem(str(step))
    taken: list[Message] = []
    while (data := outbox.take()) is not None:
        taken.append(wire.decode(data))
    problems, rest = taken[:MAX_ANSWERS], taken[MAX_ANSWERS:]
    assert problems == [Problem(str(step)) for step in range(1000 - MAX_ANSWERS, 1000)]
    assert rest[:3] == [ValueIs("/gain", 999.0), ValueIs("/seed", 999), Status({"/status/frame": 999})]
    assert rest[3:] == [Audio(step, b"") for step in range(1000 - MAX_AUDIO_MESSAGES, 1000)]
    assert (outbox.dropped_audio, outbox.dropped_answers) == (1000 - MAX_AUDIO_MESSAGES, 1000 - MAX_ANSWERS)


def test_the_feed_jumps_to_the_present_after_a_standstill_or_with_a_fresh_stream() -> None:
    source = NoiseSource()
    feed = AudioFeed(source, 32000)

    def starts() -> list[int]:
        messages = [wire.decode(message) for message in feed.due()]
        return [message.start for message in messages if isinstance(message, Audio)]

    source.played = 1000
    assert starts() == []
    source.played += 1500
    assert starts() == [1000, 1640]
    source.played += 40000
    assert starts() == []
    source.played += 640
    assert starts() == [42500]
    source.played = 0
    assert starts() == []
    source.played = 700
    assert starts() == [0]
    feed.pause()
    source.played = 5000
    assert starts() == []
