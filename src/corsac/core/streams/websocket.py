"""WebSocket connections: admission, what a client may send, and the end.

The server's protocol pings every 20 s, ends a peer that does not answer within 20 s more (1011), and refuses
messages above 1 MiB (1009). What it leaves open is here: how many connections a key may have (429 before the
handshake), binary messages (1003), too many messages (1008) and peers that do not read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from starlette.types import Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import RateLimited, ShuttingDown
from corsac.core.http.crash_guard import CALL
from corsac.core.streams.encoding import to_json
from corsac.core.streams.event import Event, SlowConsumer

NORMAL, GOING_AWAY, TEXT_ONLY, POLICY, RESTARTING = 1000, 1001, 1003, 1008, 1012


class TooManySockets(RateLimited):
    """This key has as many WebSocket connections as it may have.

    Close one of them first.
    """

    reason = "TOO_MANY_SOCKETS"


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """What one client may do.

    Args:
        per_key: Connections of one key.
        messages_per_s: Messages that a client may send per second, on average.
        burst: Messages that it may send at once after a rest.
        inbox: Messages that may wait for the handler.
        write_timeout_s: How long a message of ours may stay unread.
    """

    per_key: int = 16
    messages_per_s: float = 50.0
    burst: int = 100
    inbox: int = 256
    write_timeout_s: float = 10.0


class SocketPool:
    """The open WebSocket connections.

    Args:
        registry: Gets `corsac_websockets_open`.
        limits: What one client may do.
    """

    def __init__(self, registry: CollectorRegistry, limits: SocketLimits | None = None) -> None:
        self.limits = limits or SocketLimits()
        self.open: set[Socket] = set()
        self.closing = False
        self._by_key: Counter[str] = Counter()
        self._gauge = Gauge("corsac_websockets_open", "Open WebSocket connections.", ("service",), registry=registry)

    @contextmanager
    def admit(self, socket: Socket) -> Iterator[None]:
        """Keep the connection's place for as long as the block lasts.

        Raises:
            TooManySockets: The key has its share.
            ShuttingDown: The server is ending.
        """
        call = socket.call
        key = call.caller.key_id if call.caller else call.peer
        if self.closing:
            raise ShuttingDown(retry_after_s=5)
        if self._by_key[key] >= self.limits.per_key:
            raise TooManySockets(f"A key may have {self.limits.per_key} WebSocket connections.", retry_after_s=5)
        self._by_key[key] += 1
        self.open.add(socket)
        self._gauge.labels(call.service).inc()
        try:
            yield
        finally:
            self._gauge.labels(call.service).dec()
            self.open.discard(socket)
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]

    def shut_down(self) -> None:
        """End all connections with 1012, which asks clients to come back."""
        self.closing = True
        for socket in self.open:
            socket.end(RESTARTING, "SHUTTING_DOWN")


class Socket:
    """One connection, as the handler of a `websocket` mark sees it.

        @websocket("/chat")
        async def chat(self, socket: Socket, call: Call) -> None:
            async for text in socket:
                await socket.send(Event("echo", {"text": text}))

    When the client leaves or breaks a rule, the handler is cancelled.

    Args:
        call: Whose connection it is.
        receive: ASGI.
        send: ASGI.
        limits: What the client may do.
        monotonic: Seconds.
    """

    def __init__(
        self,
        call: Call,
        receive: Receive,
        send: Send,
        limits: SocketLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.call = call
        self._receive, self._send_raw, self._limits, self._monotonic = receive, send, limits, monotonic
        self._inbox: asyncio.Queue[str] = asyncio.Queue(limits.inbox)
        self._over: asyncio.Future[tuple[int, str] | None] = asyncio.get_running_loop().create_future()
        self._allowance, self._allowed_at = float(limits.burst), monotonic()
        self._last_id = 0

    async def receive(self) -> str:
        """The next text message."""
        return await self._inbox.get()

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            yield await self.receive()

    async def send(self, event: Event) -> None:
        """Send an event: one text message, `{"id": …, "type": …, "data": …}`, numbered if it has no id.

        Raises:
            SlowConsumer: The client left it unread for 10 seconds.
        """
        self._last_id = event.id or self._last_id + 1
        text = f'{{"id":{self._last_id},"type":"{event.type}","data":{to_json(event.data).decode()}}}'
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await self._send_raw({"type": "websocket.send", "text": text})
        except TimeoutError:
            raise SlowConsumer from None
        await asyncio.sleep(0)  # sending to a client that left returns at once

    def end(self, code: int, reason: str) -> None:
        """Cancel the handler and close the connection, once."""
        if not self._over.done():
            self._over.set_result((code, reason))

    async def serve(self, handler: Callable[[Socket], Awaitable[None]]) -> None:
        """Complete the handshake and run the handler, to its end or the connection's."""
        await self._receive()  # websocket.connect
        await self._send_raw({"type": "websocket.accept"})
        reading = asyncio.ensure_future(self._read())
        handling = asyncio.ensure_future(handler(self))
        parts: set[asyncio.Future[Any]] = {self._over, reading, handling}
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            handling.cancel()
            await asyncio.wait({reading, handling})
        if self._over.done():
            if (how := self._over.result()) is not None:
                await self._close(*how)
        elif not handling.cancelled() and (error := handling.exception()) is not None:
            raise error
        else:
            await self._close(NORMAL, "")

    async def _close(self, code: int, reason: str) -> None:
        with suppress(OSError):  # it left meanwhile
            await self._send_raw({"type": "websocket.close", "code": code, "reason": reason})

    async def _read(self) -> None:
        # Reads also while the handler does not: pongs and the client's leaving stand behind its messages.
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                if not self._over.done():
                    self._over.set_result(None)
                return
            text: Any = message.get("text")
            if text is None:
                self.end(TEXT_ONLY, "TEXT_ONLY")
                return
            if not self._may_send() or self._inbox.full():
                self.end(POLICY, RateLimited.reason)
                return
            self._inbox.put_nowait(text)

    def _may_send(self) -> bool:
        now, limits = self._monotonic(), self._limits
        regained = (now - self._allowed_at) * limits.messages_per_s
        self._allowance, self._allowed_at = min(float(limits.burst), self._allowance + regained), now
        self._allowance -= 1
        return self._allowance >= 0


class SocketEndpoint:
    """The ASGI app of one `websocket` mark.

    Args:
        handler: Gets the socket and the path's parameters.
        pool: Admits connections.
    """

    def __init__(self, handler: Callable[..., Awaitable[None]], pool: SocketPool) -> None:
        self.handler = handler
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = Socket(scope[CALL], receive, send, self.pool.limits)
        parameters = scope.get("path_params", {})
        with self.pool.admit(socket):
            await socket.serve(lambda each: self.handler(each, **parameters))
