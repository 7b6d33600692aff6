"""The web surface: the console page over HTTP and the control and audio WebSocket, on one port.

Who uses it: the supervisor starts and stops it; it runs on the event loop of the server process. Starlette routes,
uvicorn speaks HTTP; uvicorn takes no signals and writes no log but its own failures.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rfm_live.control import wire
from rfm_live.control.board import Change
from rfm_live.control.table import Refused, Value
from rfm_live.control.wire import Get, Hello, Set, Subscribe
from rfm_live.server.admission import Admission
from rfm_live.server.audio_feed import AudioFeed
from rfm_live.server.hub import AudioSource, Hub
from rfm_live.server.outbox import Outbox
from rfm_live.server.ports import bound_socket

MAX_CLIENTS = 32
_PAGE = Path(__file__).parent.parent / "web"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SEND_BUFFER_BYTES = 65536  # half a second of audio: what waits in the system is late for a slow client
_FEED_SECONDS = 0.01
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Client:
    name: str
    outbox: Outbox = field(default_factory=Outbox)
    wants_audio: bool = False
    wants_status: bool = False


class _UvicornWithoutSignals(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """HTTP and WebSocket at `host:port` (0: any free port, see `port` after the start).

    A host that other machines can reach needs a token; left out, one is drawn (`token`, and in `url`).
    """

    def __init__(
        self,
        hub: Hub,
        host: str = "127.0.0.1",
        port: int = 9080,
        token: str | None = None,
        tape: AudioSource | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._admission = Admission(host, token)
        self._hub = hub
        self._feed = AudioFeed(tape, hub.sample_rate) if tape is not None else None
        self._clients: set[_Client] = set()
        self._opened = 0
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in _PAGE.iterdir() if path.suffix in _TYPES
        }
        self._server: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def token(self) -> str | None:
        """The token that a WebSocket must bring; None on loopback unless one was given."""
        return self._admission.token

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        place = f"[{host}]" if ":" in host else host
        return f"http://{place}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    async def start(self) -> None:
        """Bind and serve. Raises StartError when the port is taken or the host is not ours."""
        listening = bound_socket("web", socket.SOCK_STREAM, self.host, self.port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.port = listening.getsockname()[1]
        routes = [
            Route("/", self._send_page),
            Route("/{name}", self._send_page),
            WebSocketRoute("/ws", self._serve_socket),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http="h11",
            ws="websockets-sansio",
            ws_max_size=1 << 20,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
        )
        self._server = _UvicornWithoutSignals(config)
        serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.002)
        if serving.done():
            await serving
        self._tasks = [serving]
        if self._feed is not None:
            self._tasks.append(asyncio.create_task(self._send_audio(self._feed)))
        self._hub.register(self)

    async def stop(self) -> None:
        """Close every connection and the port, within a second even when clients do not read. Twice is harmless."""
        self._hub.unregister(self)
        if self._server is None:
            return
        serving, *others = self._tasks
        for task in others:
            task.cancel()
        self._server.should_exit = True
        await asyncio.wait({serving}, timeout=0.5)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    def changed(self, changes: Sequence[Change]) -> None:
        for client in self._clients:
            for change in changes:
                if change.source != client.name:
                    client.outbox.put_value(change.address, change.value)

    def measured(self, values: Mapping[str, Value]) -> None:
        for client in self._clients:
            if client.wants_status:
                client.outbox.put_status(values)

    def troubled(self, text: str) -> None:
        for client in self._clients:
            client.outbox.put_problem(text)

    async def _send_page(self, request: Request) -> Response:
        if reason := self._admission.refusal_of_page(request.headers.get("host")):
            return Response(reason, status_code=403, media_type="text/plain")
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return Response("not found", status_code=404, media_type="text/plain")
        content, media_type = self._files[name]
        return Response(content, media_type=media_type, headers=_HEADERS)

    async def _serve_socket(self, websocket: WebSocket) -> None:
        headers, token = websocket.headers, websocket.query_params.get("token")
        reason = self._admission.refusal_of_socket(headers.get("host"), headers.get("origin"), token)
        if reason or len(self._clients) >= MAX_CLIENTS:
            await websocket.close()  # before the handshake: HTTP 403
            return
        await websocket.accept()
        self._opened += 1
        client = _Client(f"web:{self._opened}")
        board = self._hub.board
        client.outbox.put_answer(wire.encode(Hello(tuple(board.table), board.full_state(), self._hub.sample_rate)))
        self._clients.add(client)
        sending = asyncio.create_task(_send_all(websocket, client.outbox))
        try:
            while (event := await websocket.receive())["type"] == "websocket.receive":
                self._take(client, event.get("bytes"))
        finally:
            self._clients.discard(client)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _take(self, client: _Client, data: bytes | None) -> None:
        try:
            if data is None:
                raise Refused("broken", "message is text, expected msgpack bytes")
            message = wire.decode(data, limit=wire.MAX_INBOUND_BYTES)
            if not isinstance(message, (Set, Get, Subscribe)):
                raise Refused("broken", "message is not for the server, expected set, get or subscribe")
        except Refused as refusal:
            self._hub.count_refusal(refusal)
            client.outbox.put_problem(str(refusal))
            return
        if isinstance(message, Subscribe):
            client.wants_audio, client.wants_status = message.audio, message.status
            return
        try:
            if isinstance(message, Get):
                answers = {message.address: self._hub.board.value(message.address)}
            else:
                answers = self._hub.handle(message.address, (message.value,), client.name)
            for address, value in answers.items():
                client.outbox.put_value(address, value)
        except Refused as refusal:
            client.outbox.put_problem(str(refusal))
            state = self._hub.board.full_state()
            if message.address in state:  # so that the page shows what holds
                client.outbox.put_value(message.address, state[message.address])

    async def _send_audio(self, feed: AudioFeed) -> None:
        while True:
            await asyncio.sleep(_FEED_SECONDS)
            listeners = [client for client in self._clients if client.wants_audio]
            if not listeners:
                feed.pause()
                continue
            for message in feed.due():
                for client in listeners:
                    client.outbox.put_audio(message)


async def _send_all(websocket: WebSocket, outbox: Outbox) -> None:
    """Send what the outbox gives, waiting for a slow client, until the connection ends."""
    try:
        while True:
            await websocket.send_bytes(await outbox.next())
    except WebSocketDisconnect:
        return
    except Exception:
        _log.exception("sending to a web client failed")
