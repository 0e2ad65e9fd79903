"""A bounded load on a local server: raw HTTP over loopback, so that the client costs little."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import uvloop


@dataclass
class Load:
    """What a load measured.

    Args:
        seconds: How long it lasted.
        latencies_s: Of every request.
    """

    seconds: float
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


class _Connection(asyncio.Protocol):
    """One request at a time, again and again, until the load ends."""

    def __init__(self, request: bytes, load: Load, until: float, done: asyncio.Future[None]) -> None:
        self.request, self.load, self.until, self.done = request, load, until, done
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator or len(body) < self._length(head):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.received.decode(errors="replace")))
            return
        now = time.perf_counter()
        self.load.latencies_s.append(now - self.sent_at)
        self.received = b""
        if now >= self.until:
            self.done.set_result(None)
            self.transport.close()
        else:
            self._send()

    @staticmethod
    def _length(head: bytes) -> int:
        return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


async def _run(port: int, request: bytes, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    load = Load(seconds)
    waiting = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        waiting.append(done)
        await loop.create_connection(
            lambda done=done: _Connection(request, load, began + seconds, done), "127.0.0.1", port
        )
    await asyncio.gather(*waiting)
    load.seconds = time.perf_counter() - began
    return load


def load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Send `request` over some connections for some seconds.

    Raises:
        RuntimeError: An answer was not 200.
    """
    return uvloop.run(_run(port, request, connections, seconds))


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a JSON POST."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
