"""The listening socket, and what to say when it cannot be had."""

from __future__ import annotations

import errno
import socket

from corsac.core.exceptions import StartRefused

UNSENT_BYTES = 128 << 10


def open_listener(host: str, port: int, *, unacknowledged_timeout_s: float = 30.0) -> socket.socket:
    """A bound TCP socket that does not listen yet: until the start is done clients are refused at once.

    Args:
        host: A name or address of this machine; of a name's addresses the first IPv4 one is taken.
        port: 0 to 65535; 0 lets the system choose.
        unacknowledged_timeout_s: How long sent bytes may stay unacknowledged, inherited by every accepted
            connection. Without it a peer that vanished takes heartbeats for 15 minutes. Linux only.

    Raises:
        StartRefused: The address cannot be had; the message says what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartRefused(f"The host '{host}' has no address. Set CORSAC_HOST to 127.0.0.1.") from error
    family, kind, proto, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = round(unacknowledged_timeout_s * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Inherited too. Else the kernel takes 2.9 MB (measured) for a client that does not read, and only then do
            # we hear of it; a cut connection would lose as much. What is on its way to a reader is not bounded.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise listening_refused(error, host, port) from error
    return listener


def listening_refused(error: OSError, host: str, port: int) -> StartRefused:
    """What the system's refusal means for whoever starts the server."""
    if error.errno == errno.EADDRINUSE:
        return StartRefused(
            f"Port {port} of {host} is in use by another program. Stop that program, or set CORSAC_PORT to a free port."
        )
    if error.errno == errno.EACCES:
        return StartRefused(f"Port {port} is reserved for the system. Set CORSAC_PORT to one of 1024 to 65535.")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartRefused(f"{host} is not an address of this machine. Set CORSAC_HOST to one that is.")
    return StartRefused(f"Port {port} of {host} cannot be opened: {error.strerror}.")
