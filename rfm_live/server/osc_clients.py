"""Who is told what over OSC: the clients that were heard lately, and the fixed reply port on their machines. Sans-IO.

Who uses it: the OSC surface, on the event loop. A client answers at the port it sends from; programs that listen
elsewhere (Max, TouchOSC) get the same at the reply port of their machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

Address = tuple[str, int]

MAX_CLIENTS = 32
SILENCE_SECONDS = 600.0


@dataclass
class _Client:
    heard: float
    wants_status: bool = False


class OscClients:
    """At most `MAX_CLIENTS`; the one that was silent longest makes room. `clock` gives seconds."""

    def __init__(self, reply_port: int | None, clock: Callable[[], float]) -> None:
        self._reply_port = reply_port
        self._clock = clock
        self._clients: dict[Address, _Client] = {}  # in the order in which they were last heard
        self._deaf: set[str] = set()  # machines where nobody listens at the reply port

    def heard(self, sender: Address) -> None:
        """Note a good message of `sender`."""
        client = self._clients.pop(sender, None) or _Client(0.0)
        client.heard = self._clock()
        self._clients[sender] = client
        self._deaf.discard(sender[0])
        if len(self._clients) > MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]

    def subscribe_status(self, sender: Address) -> None:
        """Send the measurements to `sender`, too, if it is known."""
        if sender in self._clients:
            self._clients[sender].wants_status = True

    def forget(self, target: Address) -> None:
        """Nobody listens at `target`."""
        self._clients.pop(target, None)
        if target[1] == self._reply_port:
            self._deaf.add(target[0])
            if len(self._deaf) > MAX_CLIENTS:
                self._deaf.clear()

    def answer_targets(self, sender: Address) -> list[Address]:
        """Where an answer to `sender` goes."""
        return [sender, *self._reply_targets({sender[0]} if sender[0] not in self._deaf else set(), {sender})]

    def feedback_targets(self, source: Address | None = None) -> list[Address]:
        """Where a change made by `source` is shown: at everyone else.

        The reply port of a machine is the sender's own when nobody else is known there.
        """
        self._drop_silent()
        others = [client for client in self._clients if client != source]
        machines = {client[0] for client in others} - self._deaf
        return [*others, *self._reply_targets(machines, set(self._clients))]

    def status_targets(self) -> list[Address]:
        """Where measurements go: to whoever asked for the full state, and to the reply ports of their machines."""
        self._drop_silent()
        asked = [address for address, client in self._clients.items() if client.wants_status]
        return [*asked, *self._reply_targets({client[0] for client in asked} - self._deaf, set(asked))]

    def _reply_targets(self, machines: set[str], taken: set[Address]) -> list[Address]:
        if self._reply_port is None:
            return []
        return [(host, self._reply_port) for host in sorted(machines) if (host, self._reply_port) not in taken]

    def _drop_silent(self) -> None:
        oldest = self._clock() - SILENCE_SECONDS
        for address in [address for address, client in self._clients.items() if client.heard < oldest]:
            del self._clients[address]
