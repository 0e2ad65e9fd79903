"""What a request's head must be beyond what the parser checks."""

from __future__ import annotations

from collections.abc import Sequence

from websockets.http11 import Request
from websockets.server import ServerProtocol

from corsac.core.exceptions import InvalidRequest


def head_error(version: str, headers: Sequence[tuple[bytes, bytes]], *, upgrade: bool) -> InvalidRequest | None:
    """What is wrong with a head, or None.

    Args:
        version: The HTTP version's digits, "1.1".
        headers: Names in lower case, values.
        upgrade: Whether the request asks to leave HTTP.

    Source: RFC 9112, sections 2.5 and 3.2.
    """
    names = [name for name, _ in headers]
    if version not in ("1.0", "1.1"):
        return InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0.")
    if names.count(b"host") > 1 or (version == "1.1" and b"host" not in names):
        return InvalidRequest("A request has exactly one Host header.")
    has_body = any(name == b"transfer-encoding" or (name == b"content-length" and v != b"0") for name, v in headers)
    if upgrade and has_body:
        # httptools skips the body of an upgrade request: the next request would be read from its middle.
        return InvalidRequest("A request with a body cannot ask for an upgrade; leave the Upgrade header out.")
    return None


def is_websocket_handshake(method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the WebSocket library takes this head; the rest it answers in text/plain, or not at all."""
    handshake = ServerProtocol()
    handshake.receive_data(b"\r\n".join([b"%s %s HTTP/1.1" % (method, url), *map(b": ".join, headers), b"\r\n"]))
    return any(
        isinstance(event, Request) and handshake.accept(event).status_code == 101
        for event in handshake.events_received()
    )
