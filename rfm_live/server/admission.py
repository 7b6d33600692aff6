"""Who may open a WebSocket or load the page (Host, Origin, token), and who may send OSC (/token). Sans-IO.

Who uses it: the web and the OSC surface. A loopback server is open to the user's own programs but not to pages of
other sites that the user's browser has open: those send their own Origin, and after DNS rebinding their own Host.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from rfm_live.control.table import Refused
from rfm_live.server.osc_clients import Address

MAX_ADMITTED = 256


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Admission:
    """The rules for a server bound to `host`. Reachable from elsewhere, it always has a token: given or drawn here."""

    def __init__(self, host: str, token: str | None) -> None:
        self._only_local = is_loopback(host)
        self._names = {"localhost", "127.0.0.1", "::1", host}
        self.token = token if token or self._only_local else secrets.token_urlsafe(12)

    def refusal_of_page(self, host: str | None) -> str | None:
        """Why a request with this Host header gets nothing; None when it is welcome."""
        if self._only_local and _hostname(f"//{host or ''}") not in self._names:
            return "this server answers only to localhost"
        return None

    def refusal_of_socket(self, host: str | None, origin: str | None, token: str | None) -> str | None:
        """Why a WebSocket is not opened; None when it is welcome. A program that is no browser sends no Origin."""
        if reason := self.refusal_of_page(host):
            return reason
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "a page of another site may not control this server"
        if self.token and not _is_same(token or "", self.token):
            return "the token is missing or wrong"
        return None


class OscAdmission:
    """OSC clients that have brought the token, at most `MAX_ADMITTED`; the oldest makes room. Without a token, all.

    It stops strangers on the network, not someone who reads or forges its packets: UDP proves no sender.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._admitted: dict[Address, None] = {}

    def bring(self, client: Address, args: Sequence[object]) -> None:
        """Take the message /token of `client`. Raises Refused for a wrong token."""
        if not self._token:
            return
        if len(args) != 1 or not isinstance(args[0], str) or not _is_same(args[0], self._token):
            raise Refused("not admitted", "the token is missing or wrong")
        self._admitted.pop(client, None)
        self._admitted[client] = None
        if len(self._admitted) > MAX_ADMITTED:
            del self._admitted[next(iter(self._admitted))]

    def is_admitted(self, client: Address) -> bool:
        """Whether messages of `client` are taken."""
        return not self._token or client in self._admitted

    def require(self, client: Address) -> None:
        """Raises Refused when `client` has not brought the token."""
        if not self.is_admitted(client):
            raise Refused("not admitted", "send /token with the token of this server first")


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
