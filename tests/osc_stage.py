"""A running OSC server with peers that speak to it over real UDP: what the tests of the server play on."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rfm_live.control import osc
from rfm_live.control.board import ControlBoard
from rfm_live.control.osc import OscMessage
from rfm_live.control.table import ControlTable, Value
from rfm_live.server.hub import Hub
from rfm_live.server.osc import OscServer

PATIENCE = 5.0


class Engine:
    """What the engine was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def __call__(self, address: str, value: object) -> None:
        self.told.append((address, value))


class Peer:
    """A UDP client with a port of its own."""

    def __init__(self, server: OscServer, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", port))
        self.address: tuple[str, int] = self.socket.getsockname()
        self._server = ("127.0.0.1", server.port)

    def send(self, address: str, *args: Value) -> None:
        self.send_bytes(osc.encode(OscMessage(address, args)))

    def send_bytes(self, packet: bytes) -> None:
        self.socket.sendto(packet, self._server)

    async def receive(self) -> list[OscMessage]:
        loop = asyncio.get_running_loop()
        return osc.decode(await asyncio.wait_for(loop.sock_recv(self.socket, 65536), PATIENCE))

    async def receive_state(self, size: int) -> dict[str, Value | None]:
        state: dict[str, Value | None] = {}
        while len(state) < size:
            state |= {message.address: message.args[0] for message in await self.receive()}
        return state

    async def ask(self, address: str) -> Value | None:
        """The value, after everything sent so far was taken. Other messages that wait are passed over."""
        self.send(address)
        while True:
            for message in await self.receive():
                if message.address == address:
                    return message.args[0]

    def nothing_waits(self) -> bool:
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


class Stage:
    """A running server with its hub and engine, and peers that are closed in the end."""

    def __init__(self, reply_port: int | None = None, token: str | None = None) -> None:
        self.engine = Engine()
        self.board = ControlBoard(ControlTable(["note_c", "note_d"]))
        self.hub = Hub(self.board, self.engine)
        self.server = OscServer(self.hub, port=0, reply_port=reply_port, token=token)
        self.peers: list[Peer] = []

    def peer(self, port: int = 0) -> Peer:
        self.peers.append(Peer(self.server, port))
        return self.peers[-1]


@asynccontextmanager
async def stage(reply_port: int | None, token: str | None) -> AsyncIterator[Stage]:
    running = Stage(reply_port, token)
    await running.server.start()
    try:
        yield running
    finally:
        for peer in running.peers:
            peer.socket.close()
        await asyncio.wait_for(running.server.stop(), 1.0)


def on_stage(play: Callable[[Stage], Awaitable[None]], reply_port: int | None = None, token: str | None = None) -> None:
    async def run() -> None:
        async with stage(reply_port, token) as running:
            await play(running)

    asyncio.run(run())


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
