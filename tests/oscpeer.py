"""OSC by hand for the end-to-end tests: one message out, the answer back, through python-osc's codec."""

import shutil
import socket
import time

import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder


def need(*programs: str) -> None:
    """Skip where one of the foreign programs is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def ask(port: int, address: str, value: float | int | str | None = None, seconds: float = 10.0) -> object:
    """Set `address` (then None is returned at once), or ask for its value and return the answer."""
    builder = OscMessageBuilder(address)
    if value is not None:
        builder.add_arg(value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(seconds)
        sender.sendto(builder.build().dgram, ("127.0.0.1", port))
        if value is not None:
            return None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = OscMessage(sender.recv(65_536))
            if message.address == address:
                return message.params[0]
    raise AssertionError(f"no answer about {address}")
