"""The OSC surface: one UDP socket that takes messages, answers them and shows changes to every known client.

Who uses it: the supervisor starts and stops it; it runs on the event loop of the server process.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rfm_live.control import osc
from rfm_live.control.board import Change
from rfm_live.control.osc import OscMessage
from rfm_live.control.table import Refused, Value
from rfm_live.server.admission import OscAdmission
from rfm_live.server.hub import Hub
from rfm_live.server.osc_clients import Address, OscClients
from rfm_live.server.ports import bound_socket

_IP_RECVERR = 11  # linux/in.h; Python's socket module does not name it
_ERROR_QUEUE = getattr(socket, "MSG_ERRQUEUE", None)


class OscServer(asyncio.DatagramProtocol):
    """OSC over UDP at `host:port` (0: any free port, see `port` after the start).

    Answers go to the sender and to `reply_port` on its machine; a client that has sent /sync gets the measurements.
    With a `token`, a client is heard only after it has sent it to /token (in the same bundle will do).
    """

    def __init__(
        self,
        hub: Hub,
        host: str = "127.0.0.1",
        port: int = 9000,
        reply_port: int | None = 9001,
        token: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.port = port
        self.unsent = 0  # datagrams that the system would not take
        self._hub = hub
        self._clients = OscClients(reply_port, clock)
        self._admission = OscAdmission(token)
        self._socket: socket.socket | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._lost = asyncio.Event()

    async def start(self) -> None:
        """Bind and listen. Raises StartError when the port is taken or the host is not ours."""
        self._socket = bound_socket("OSC", socket.SOCK_DGRAM, self.host, self.port)
        if _ERROR_QUEUE is not None and self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        self.port = self._socket.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket)
        self._hub.register(self)

    async def stop(self) -> None:
        """Close the socket. Stopping twice is harmless."""
        self._hub.unregister(self)
        if self._transport is not None:
            self._transport.close()
            await self._lost.wait()
            self._transport = self._socket = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        sender = (addr[0], addr[1])
        try:
            messages = osc.decode(data)
        except Refused as refusal:
            self._hub.count_refusal(refusal)
            self._send_problems(sender, [str(refusal)])
            return
        answers: dict[str, Value] = {}
        problems: list[str] = []
        for message in messages:
            try:
                answers |= self._take(message, sender)
            except Refused as refusal:
                if message.address != "/error":  # or two programs would answer each other's errors for ever
                    problems.append(str(refusal))
                continue
            self._clients.heard(sender)
            if message.address == "/sync":
                self._clients.subscribe_status(sender)
        self._send_values(self._clients.answer_targets(sender), answers)
        self._send_problems(sender, problems)

    def _take(self, message: OscMessage, sender: Address) -> dict[str, Value]:
        """The values to answer. Raises Refused, already counted."""
        try:
            if message.address == "/token":
                self._admission.bring(sender, message.args)
                self._hub.count_accepted()
                return {}
            self._admission.require(sender)
        except Refused as refusal:
            self._hub.count_refusal(refusal)
            raise
        return self._hub.handle(message.address, message.args, _name_of(sender))

    def error_received(self, exc: Exception) -> None:
        self._forget_refusing()

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            packet = osc.encode(OscMessage(change.address, (change.value,)))
            for target in self._clients.feedback_targets(_address_of(change.source)):
                self._send(packet, target)

    def measured(self, values: Mapping[str, Value]) -> None:
        targets = self._clients.status_targets()
        if targets:
            self._send_values(targets, values)

    def troubled(self, text: str) -> None:
        packet = osc.encode(OscMessage("/error", (text,)))
        for target in self._clients.feedback_targets(None):
            self._send(packet, target)

    def _send_values(self, targets: Iterable[Address], values: Mapping[str, Value]) -> None:
        if len(values) == 1:
            packets = [osc.encode(OscMessage(address, (value,))) for address, value in values.items()]
        else:
            packets = osc.encode_state(values)
        for target in targets:
            for packet in packets:
                self._send(packet, target)

    def _send_problems(self, sender: Address, problems: Sequence[str]) -> None:
        """One /error for one datagram, however much is wrong in it: a flood must not be answered by a larger one."""
        if problems:
            more = f", and {len(problems) - 1} more messages were refused" if len(problems) > 1 else ""
            packet = osc.encode(OscMessage("/error", (problems[0] + more,)))
            known = self._admission.is_admitted(sender)
            for target in self._clients.answer_targets(sender) if known else [sender]:
                self._send(packet, target)

    def _send(self, packet: bytes, target: Address) -> None:
        """Send, or count. Linux reports the fate of an earlier datagram here and does not send this one: again."""
        for _ in range(4):
            if self._socket is None or self._socket.fileno() < 0:
                return
            try:
                self._socket.sendto(packet, target)
                return
            except BlockingIOError:
                break
            except OSError:
                self._forget_refusing()
        else:
            self._clients.forget(target)  # it cannot be reached, or its port is 0
        self.unsent += 1

    def _forget_refusing(self) -> None:
        """Forget every target of which the network reported that nobody listens there (ICMP, RFC 1122 4.1.3.3)."""
        while _ERROR_QUEUE is not None and self._socket is not None:
            try:
                _, _, _, target = self._socket.recvmsg(0, 512, _ERROR_QUEUE)
            except OSError:  # the queue is empty
                return
            self._clients.forget((target[0], target[1]))


def _name_of(client: Address) -> str:
    return f"osc:{client[0]}:{client[1]}"


def _address_of(source: str | None) -> Address | None:
    if source is None or not source.startswith("osc:"):
        return None
    host, _, port = source.removeprefix("osc:").rpartition(":")
    return host, int(port)
