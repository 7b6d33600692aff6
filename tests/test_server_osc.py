"""The OSC surface over real UDP: answers, feedback, foreign bytes, and liblo as a peer."""

import asyncio
import random
import shutil
import socket
import struct
import time

import pytest

from rfm_live.control import osc
from rfm_live.control.osc import OscMessage
from rfm_live.control.table import Refused
from rfm_live.errors import StartError
from rfm_live.server.osc import OscServer
from tests.osc_stage import PATIENCE, Stage, free_port, on_stage, until

ETA = "/concept/note_c/eta"


def test_a_message_reaches_the_engine_and_a_question_is_answered() -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        peer.send(ETA, 0.5)
        assert await peer.ask(ETA) == 0.5
        assert on.engine.told == [(ETA, 0.5)]

    on_stage(play)


def test_a_change_is_shown_to_every_known_client_but_its_sender() -> None:
    async def play(on: Stage) -> None:
        one, two, stranger = on.peer(), on.peer(), on.peer()
        await one.ask("/gain")
        await two.ask("/gain")
        stranger.send("/no", 1)
        assert (await stranger.receive())[0].address == "/error"
        one.send("/strength", 1.5)
        assert await two.receive() == [OscMessage("/strength", (1.5,))]
        assert await one.ask("/strength") == 1.5 and one.nothing_waits()
        assert stranger.nothing_waits()

    on_stage(play)


def test_a_change_by_another_surface_is_shown_to_all() -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        await peer.ask("/gain")
        on.hub.handle("/prompt", ["slow strings"], "web:1")
        assert await peer.receive() == [OscMessage("/prompt", ("slow strings",))]

    on_stage(play)


def test_trouble_that_nobody_asked_for_is_told_to_every_known_client() -> None:
    async def play(on: Stage) -> None:
        one, two, stranger = on.peer(), on.peer(), on.peer()
        await one.ask("/gain")
        await two.ask("/gain")
        on.hub.tell_trouble("prompt 'x' is not played: no")
        for peer in (one, two):
            assert await peer.receive() == [OscMessage("/error", ("prompt 'x' is not played: no",))]
        assert stranger.nothing_waits()

    on_stage(play)


def test_panic_shows_its_sender_the_etas_that_fell_and_repeats_no_trigger() -> None:
    async def play(on: Stage) -> None:
        peer, other = on.peer(), on.peer()
        peer.send(ETA, 1.0)
        await peer.ask(ETA)
        await other.ask(ETA)
        peer.send("/panic", 1.0)
        assert await peer.receive() == [OscMessage(ETA, (0.0,))]
        assert await other.receive() == [OscMessage(ETA, (0.0,))]
        assert on.engine.told == [(ETA, 1.0), ("/panic", True), (ETA, 0.0)]

    on_stage(play)


def test_sync_brings_the_full_state_and_from_then_on_the_measurements() -> None:
    async def play(on: Stage) -> None:
        peer, other = on.peer(), on.peer()
        await other.ask("/gain")
        peer.send("/gain", -6)
        peer.send("/sync")
        expected = on.board.full_state() | {"/gain": -6.0}
        assert await peer.receive_state(len(expected)) == expected
        on.hub.engine_status({"frame": 50, "step_ms": 10.0, "step_p95_ms": 12.0, "written": 32000, "text": "x"})
        status = await peer.receive_state(3)
        assert status == {"/status/frame": 50, "/status/step_ms": 10.0, "/status/real_time_factor": 2.0}
        assert await other.receive() == [OscMessage("/gain", (-6.0,))]
        assert await other.ask("/status/frame") == 50 and other.nothing_waits()

    on_stage(play)


def test_answers_and_feedback_also_go_to_the_set_reply_port() -> None:
    port = free_port()

    async def play(on: Stage) -> None:
        ear, talker = on.peer(port), on.peer()
        talker.send("/gain")
        assert await ear.receive() == await talker.receive() == [OscMessage("/gain", (0.0,))]
        talker.send("/sync")
        size = len(on.board.full_state())
        assert await ear.receive_state(size) == await talker.receive_state(size) == on.board.full_state()
        on.hub.handle("/gain", [3.0], "web:1")
        assert await ear.receive() == await talker.receive() == [OscMessage("/gain", (3.0,))]
        talker.send("/gain", 1.0)  # alone on its machine, so the reply port is its own: no echo
        assert await talker.ask("/gain") == 1.0
        assert await ear.receive() == [OscMessage("/gain", (1.0,))] and ear.nothing_waits()

    on_stage(play, reply_port=port)


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (osc.encode(OscMessage("/no", (1,))), "unknown address '/no'"),
        (osc.encode(OscMessage(ETA, ("x",))), f"{ETA} is 'x', expected a number"),
        (osc.encode(OscMessage(ETA, (float("nan"),))), f"{ETA} is nan, expected -2..2"),
        (osc.encode(OscMessage(ETA, (9,))), f"{ETA} is 9, expected -2..2"),
        (osc.encode(OscMessage("/status/frame", (9,))), "/status/frame is read only"),
        (b"nonsense", "OSC packet b'nonsense' is broken: neither a message nor a bundle"),
        (bytes(20000), "OSC packet has 20000 bytes, expected at most 16384"),
    ],
)
def test_a_bad_message_gets_one_error_and_is_counted(packet: bytes, text: str) -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        peer.send_bytes(packet)
        assert await peer.receive() == [OscMessage("/error", (text,))]
        assert on.board.refused.total() == 1 and on.board.accepted == 0
        peer.send(ETA, 0.25)
        assert await peer.ask(ETA) == 0.25 and peer.nothing_waits()

    on_stage(play)


def test_a_bundle_with_many_bad_messages_gets_one_error_and_its_good_ones_are_taken() -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        (packet,) = osc.encode_state({"/a": 1, ETA: 0.5, "/b": 2, "/c": 3})
        peer.send_bytes(packet)
        text = "unknown address '/a', and 2 more messages were refused"
        assert await peer.receive() == [OscMessage("/error", (text,))]
        assert await peer.ask(ETA) == 0.5
        assert on.board.refused == {"unknown address": 3}

    on_stage(play)


def test_an_error_is_never_answered_so_that_two_servers_do_not_talk_for_ever() -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        peer.send("/error", "unknown address '/x'")
        peer.send("/error")
        await peer.ask("/gain")
        assert peer.nothing_waits() and on.board.refused.total() == 2

    on_stage(play)


def test_a_client_whose_port_is_closed_is_forgotten_and_costs_the_others_nothing() -> None:
    async def play(on: Stage) -> None:
        alive = on.peer()
        await alive.ask("/gain")
        for _ in range(5):
            dead = on.peer()
            await dead.ask("/gain")
            dead.socket.close()
        for step in range(1, 20):
            on.hub.handle("/gain", [-float(step)], "web:1")
            assert await alive.receive() == [OscMessage("/gain", (-float(step),))]
        if hasattr(socket, "MSG_ERRQUEUE"):
            assert on.server._clients.feedback_targets() == [alive.address]
        assert on.server.unsent == 0

    on_stage(play)


def foreign_packets(count: int) -> list[bytes]:
    """Random bytes, random bundles, and good messages with flipped bytes."""
    draw = random.Random(7)
    good = [osc.encode(OscMessage(*message)) for message in ((ETA, (0.5,)), ("/prompt", ("drums",)), ("/sync", ()))]
    packets = []
    for kind in range(count):
        noise = draw.randbytes(draw.randrange(1, 80))
        if kind % 3 == 0:
            packets.append(noise)
        elif kind % 3 == 1:
            packets.append(b"#bundle\0" + bytes(8) + struct.pack(">i", draw.randrange(-8, 90)) + noise)
        else:
            flipped = bytearray(draw.choice(good))
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
            packets.append(bytes(flipped))
    return packets


def messages_in(packet: bytes) -> int:
    """How many messages are to be counted: those of the packet, or one for a packet that cannot be read."""
    try:
        return len(osc.decode(packet))
    except Refused:
        return 1


def test_after_a_thousand_foreign_packets_a_good_message_works_and_the_counters_add_up() -> None:
    packets = foreign_packets(1000)

    async def play(on: Stage) -> None:
        noisy, fresh = on.peer(), on.peer()
        sent = 0
        for at in range(0, len(packets), 50):
            for packet in packets[at : at + 50]:
                noisy.send_bytes(packet)
                sent += messages_in(packet)
            await until(lambda sent=sent: on.board.accepted + on.board.refused.total() == sent)  # type: ignore[misc]
        fresh.send(ETA, 1.25)
        assert await fresh.ask(ETA) == 1.25
        assert on.board.accepted + on.board.refused.total() == sent + 2
        assert on.board.refused["broken"] > 300

    on_stage(play)


def test_with_a_token_a_client_is_heard_answered_and_shown_changes_only_after_it_brought_it() -> None:
    ask_for_it = [OscMessage("/error", ("send /token with the token of this server first",))]

    async def play(on: Stage) -> None:
        stranger, peer, bundler = on.peer(), on.peer(), on.peer()
        for address, args in ((ETA, (0.5,)), ("/sync", ()), ("/gain", ()), ("/nowhere", (1,))):
            stranger.send(address, *args)
            assert await stranger.receive() == ask_for_it
        for wrong in (("wrong",), (), ("sesam",), (5,), ("sesame", "sesame")):
            stranger.send("/token", *wrong)
            assert await stranger.receive() == [OscMessage("/error", ("the token is missing or wrong",))]
        assert on.engine.told == [] and on.board.refused == {"not admitted": 9} and on.board.accepted == 0
        peer.send("/token", "sesame")
        peer.send(ETA, 0.5)
        assert await peer.ask(ETA) == 0.5
        for packet in osc.encode_state({"/token": "sesame", "/gain": -3.0}):
            bundler.send_bytes(packet)
        assert await peer.receive() == [OscMessage("/gain", (-3.0,))]
        on.hub.handle("/seed", [5], "web:1")
        assert await peer.receive() == await bundler.receive() == [OscMessage("/seed", (5,))]
        assert stranger.nothing_waits() and on.board.accepted == 6

    on_stage(play, token="sesame")


def test_a_server_without_a_token_takes_any_token_in_silence() -> None:
    async def play(on: Stage) -> None:
        peer = on.peer()
        peer.send("/token", "whatever")
        assert await peer.ask("/gain") == 0.0 and peer.nothing_waits()

    on_stage(play)


def test_a_taken_port_is_one_line_that_says_so() -> None:
    async def play(on: Stage) -> None:
        second = OscServer(on.hub, port=on.server.port)
        with pytest.raises(StartError, match=f"OSC port {on.server.port} is in use on 127.0.0.1, end the other"):
            await second.start()
        await second.stop()

    on_stage(play)


def test_an_unknown_host_is_one_line_that_says_so() -> None:
    with pytest.raises(StartError, match=r"OSC (host 'nowhere.invalid' is unknown|cannot listen)"):
        asyncio.run(OscServer(Stage().hub, host="nowhere.invalid", port=0).start())


needs_liblo = pytest.mark.skipif(
    not (shutil.which("oscsend") and shutil.which("oscdump") and shutil.which("stdbuf")),
    reason="liblo's oscsend and oscdump (Debian: liblo-tools) are not installed",
)


async def oscsend(port: int, *words: str) -> None:
    process = await asyncio.create_subprocess_exec("oscsend", "127.0.0.1", str(port), *words)
    assert await process.wait() == 0


@pytest.mark.osc_peer
@needs_liblo
def test_liblo_sends_every_kind_of_value() -> None:
    async def play(on: Stage) -> None:
        for words in (
            (ETA, "f", "0.75"),
            ("/concept/note_d/on", "F"),
            ("/top_k", "i", "40"),
            ("/seed", "h", "12"),
            ("/temperature", "d", "0.5"),
            ("/prompt", "s", "warm piano"),
            ("/forget",),
            ("/nowhere", "f", "1"),
        ):
            await oscsend(on.server.port, *words)
        await until(lambda: on.board.accepted + on.board.refused.total() == 8)
        assert on.engine.told == [
            (ETA, 0.75),
            ("/concept/note_d/on", 0),
            ("/top_k", 40),
            ("/seed", 12),
            ("/temperature", 0.5),
            ("/prompt", "warm piano"),
            ("/forget", True),
        ]

    on_stage(play)


@pytest.mark.osc_peer
@needs_liblo
def test_liblo_hears_answers_feedback_and_the_full_state_at_the_reply_port() -> None:
    port = free_port()

    async def play(on: Stage) -> None:
        dump = await asyncio.create_subprocess_exec(
            "stdbuf", "-oL", "oscdump", str(port), stdout=asyncio.subprocess.PIPE
        )
        assert dump.stdout is not None
        lines: list[str] = []

        async def collect(stream: asyncio.StreamReader) -> None:
            while line := await stream.readline():
                lines.append(line.decode().split(" ", 1)[1].rstrip())  # without liblo's time tag

        collecting = asyncio.create_task(collect(dump.stdout))
        try:
            peer = on.peer()
            deadline = time.monotonic() + PATIENCE
            while "/seed i 0" not in lines:
                assert time.monotonic() < deadline
                await peer.ask("/seed")
            on.hub.handle(ETA, [0.5], "web:1")
            await until(lambda: f"{ETA} f 0.500000" in lines)
            await oscsend(on.server.port, "/sync")
            await until(lambda: {line.split()[0] for line in lines} >= set(on.board.full_state()))
            assert "/gain f 0.000000" in lines and '/prompt s ""' in lines
        finally:
            dump.terminate()
            await dump.wait()
            await collecting

    on_stage(play, reply_port=port)
