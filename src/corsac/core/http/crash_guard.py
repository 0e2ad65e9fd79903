"""The outermost layer: mints the request's call, renders every error, and never lets an exception out."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corsac.core.call import CURRENT_CALL, Call
from corsac.core.exceptions import CorsacError, InternalError, ShuttingDown
from corsac.core.http.problem import problem_bytes, problem_headers

if TYPE_CHECKING:
    from corsac.core.http.proxies import TrustedProxies
    from corsac.core.logging_config import Logger

CALL = "corsac.call"
"""Key of the `Call` in the ASGI scope."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
PAGES = (b"text/html", b"image/svg", b"application/xhtml")
EXEMPT_WHILE_DRAINING = frozenset({"/livez", "/readyz", "/startupz"})


class OpenStreams:
    """The answers that are being streamed right now, and the word that ends them.

    The server waits for ordinary answers when it drains, and ends these.
    """

    def __init__(self) -> None:
        self.open: set[object] = set()
        self.ending = asyncio.Event()

    def __len__(self) -> int:
        return len(self.open)


class CrashGuard:
    """Answers every failure in problem form. A body that was cut looks cut: its last chunk is never sent.

    Args:
        app: The layers below.
        logger: Gets what nobody below has caught.
        streams: Learns which answers are streamed.
        draining: Whether new work is refused because the server is shutting down.
        headers: Response headers of every answer.
        page_headers: Response headers of pages besides.
        proxies: Tell the client's address from their own.
        random_bits: Makes the number in a request id.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: Logger,
        streams: OpenStreams,
        draining: Callable[[], bool],
        headers: list[tuple[bytes, bytes]],
        page_headers: list[tuple[bytes, bytes]],
        proxies: TrustedProxies,
        random_bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        self.app = app
        self.logger = logger
        self.streams = streams
        self.draining = draining
        self.headers = headers
        self.page_headers = page_headers
        self.proxies = proxies
        self.random_bits = random_bits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        call = self._call_of(scope)
        scope[CALL] = call
        token = CURRENT_CALL.set(call)
        answer = _Answer(scope, call, self, send)
        try:
            if self.draining() and scope["path"] not in EXEMPT_WHILE_DRAINING:
                raise ShuttingDown(retry_after_s=5, headers={"Connection": "close"})
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:
            # The client left, or the server is ending: this is the request's outermost frame, and nobody waits.
            return
        except CorsacError as error:
            await answer.fail(error)
        except Exception:
            self.logger.exception("request crashed", request_id=call.request_id)
            await answer.fail(InternalError())
        finally:
            self.streams.open.discard(answer)
            CURRENT_CALL.reset(token)

    def _call_of(self, scope: Scope) -> Call:
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        if not REQUEST_ID.fullmatch(request_id):
            # Ids are no secrets, and asking the system for random bytes would hand the interpreter's lock away.
            request_id = b"%032x" % self.random_bits(128)
        return Call(request_id.decode(), peer=self.proxies.peer(scope))


def is_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer is something that a browser would render: HTML or SVG."""
    return any(name == b"content-type" and value.startswith(PAGES) for name, value in headers)


class _Answer:
    """One answer on its way out."""

    __slots__ = ("call", "guard", "scope", "send_raw", "started", "streaming")

    def __init__(self, scope: Scope, call: Call, guard: CrashGuard, send: Send) -> None:
        self.scope, self.call, self.guard, self.send_raw = scope, call, guard, send
        self.started = self.streaming = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" or kind == "websocket.http.response.start":
            self.started = True
            self.call.status = message["status"]
            headers = message.get("headers", ())
            message["headers"] = [
                *headers,
                *(self.guard.page_headers if is_page(headers) else ()),
                (b"x-request-id", self.call.request_id.encode()),
                *self.guard.headers,
                *self.call.headers,
            ]
        elif kind == "http.response.body":
            self.call.sent_bytes += len(message.get("body", b""))
            if message.get("more_body"):
                if not self.streaming:
                    self.streaming = True
                    self.guard.streams.open.add(self)
                await self.send_raw(message)
                # Sending to a client that left returns at once: a producer that never waits would hold the loop.
                await asyncio.sleep(0)
                return
        elif kind == "websocket.accept":
            self.started = True
        await self.send_raw(message)

    async def fail(self, error: CorsacError) -> None:
        call = self.call
        if self.started:
            # Half an answer is out and nothing true can be added; returning here leaves it visibly cut.
            if self.scope["type"] == "websocket":
                await self.send_raw({"type": "websocket.close", "code": 1011, "reason": error.reason})
            return
        body = problem_bytes(error, call.request_id, call.service, call.operation)
        prefix = "http" if self.scope["type"] == "http" else "websocket.http"
        start = {
            "type": f"{prefix}.response.start",
            "status": error.status,
            "headers": problem_headers(error, body),
        }
        await self.send(start)
        await self.send({"type": f"{prefix}.response.body", "body": b"" if self._is_head() else body})

    def _is_head(self) -> bool:
        return bool(self.scope.get("method") == "HEAD")
