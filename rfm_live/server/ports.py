"""Opening the ports: a bound socket, or one line that says why not. Used by the surfaces when they start."""

import errno
import os
import socket

from rfm_live.errors import StartError


def bound_socket(name: str, kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """A non-blocking socket of `kind`, bound to `host:port`; `name` is what the user calls the port.

    Raises StartError when the port is taken, the host unknown or not ours.
    """
    try:
        family, _, protocol, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except OSError as error:
        raise StartError(f"{name} host '{host}' is unknown: {error.strerror}") from None
    bound = socket.socket(family, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM and os.name == "posix":  # elsewhere the option lets two programs share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            what = f"{name} port {port} is in use on {host}"
            raise StartError(f"{what}, end the other program or choose another port") from None
        raise StartError(f"{name} cannot listen on {host}:{port}: {error.strerror}") from None
    return bound
