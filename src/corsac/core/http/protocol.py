"""HTTP/1.1 with limits: what the parser alone would let pass is refused here, before any ASGI code runs.

Stock uvicorn takes headers of any size and number, waits for a header or a body without end, refuses in
text/plain, and lets a request's work go on after its client has left. Here a refusal is a problem document with
a request id of its own, and a client that leaves takes its request's task with it.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from corsac.core.exceptions import (
    CorsacError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    TooManyConnections,
)
from corsac.core.http.limits import Phase, ProtocolLimits, RequestClock
from corsac.core.http.problem import problem_bytes, problem_headers
from corsac.core.http.request_head import head_error, is_websocket_handshake

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

OnRefusal = Callable[[CorsacError, str, str], None]
"""Told of every refusal: the error, the request id in its answer, the peer's address."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        config: uvicorn's configuration.
        server_state: Connections and tasks of the server.
        app_state: The lifespan's state, copied into every request's scope.
        limits: What to refuse.
        on_refusal: Told of every refusal, once its answer is written.
        lingering: The server's connections that are kept only until their client has read a refusal.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ProtocolLimits,
        on_refusal: OnRefusal,
        lingering: set[LimitedProtocol],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.limits, self.on_refusal, self.lingering = limits, on_refusal, lingering
        self.clock = RequestClock(limits, self.loop.time)
        self.write_deadline: float | None = None
        self.header_bytes = self.n_headers = 0
        self.bytes_without_content = 0  # raw ones: the parser shows a field only when it has the whole of it
        # `cycle` is the request read last; this is the one being answered, with its task.
        self.running: RequestResponseCycle | None = None
        self.task: asyncio.Task[None] | None = None
        self.parser_refusal: CorsacError | None = None
        self.deferred: CorsacError | None = None
        self.deaf = False  # whether input is read and dropped

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.running is not None and not self.running.response_complete

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.clock.expect_header()
        if len(self.connections) > self.limits.connections:
            self.refuse(TooManyConnections(retry_after_s=5))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lingering.discard(self)
        self.pipeline.clear()
        self._cancel_running()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self.clock.deadline is None and self.clock.phase is Phase.IDLE:
            self.clock.expect_header()
        self.bytes_without_content += len(data)
        super().data_received(data)
        if self.bytes_without_content > self.limits.header_bytes:
            self.refuse(HeadersTooLarge())
        elif self.clock.phase is Phase.BODY and not self._answered_early():
            self.clock.receive_body(len(data))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_deadline = self.loop.time() + self.limits.write_timeout_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_deadline = None

    def abandon(self) -> None:
        """Give up on the request that is being answered, and on a client that may never read."""
        self._cancel_running()
        self.transport.abort()

    def _cancel_running(self) -> None:
        if self.running is not None and self.task is not None and self.busy:
            self.running.disconnected = True
            self.running.message_event.set()
            self.task.cancel("client disconnected")

    # What the parser reports

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.clock.phase = Phase.HEADER
        self.header_bytes = self.n_headers = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_header_bytes(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.n_headers += 1
        self._count_header_bytes(len(name) + len(value) + len(b": \r\n"))
        if self.clock.phase is Phase.HEADER:  # not a trailer: those must not reach a request that already runs
            super().on_header(name, value)

    def _count_header_bytes(self, size_bytes: int) -> None:
        self.header_bytes += size_bytes
        if self.header_bytes > self.limits.header_bytes or self.n_headers > self.limits.headers:
            self._refuse_in_parser(HeadersTooLarge())

    def on_headers_complete(self) -> None:
        upgrade = self.parser.should_upgrade()
        error = head_error(self.parser.get_http_version(), self.headers, upgrade=upgrade)
        if error is None and len(self.pipeline) >= self.limits.pipelined:
            error = InvalidRequest(f"At most {self.limits.pipelined} pipelined requests may wait.")
        if error is None and upgrade and self.busy:
            error = InvalidRequest("An upgrade has to wait for the answers to earlier requests.")
        if error is not None:
            self._refuse_in_parser(error)
        super().on_headers_complete()
        if upgrade and not self._should_upgrade():
            # The upgrade is not taken, yet the parser reads nothing behind it.
            self.cycle.keep_alive = False
        self.clock.expect_body()
        self.bytes_without_content = 0

    def on_body(self, body: bytes) -> None:
        self.bytes_without_content = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.clock.expect_nothing()
        self.bytes_without_content = 0

    def handle_websocket_upgrade(self) -> None:
        if is_websocket_handshake(self.scope["method"].encode(), self.url, self.headers):
            super().handle_websocket_upgrade()
        else:
            self.refuse(InvalidRequest("The WebSocket handshake is not one of RFC 6455, version 13."))

    # The answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def answer(scope: Scope, receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not cycle.disconnected:
                    raise

        async def send(message: ASGISendEvent) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body")
            if ends and cycle.more_body and not cycle.keep_alive:
                # Stock closes at once; with input unread that is a reset, and the client may lose the answer.
                cycle.keep_alive = True
                await cycle.send(message)
                self._linger()
            else:
                await cycle.send(message)

        self.running = cycle
        self.task = self.loop.create_task(cycle.run_asgi(answer))
        self.task.add_done_callback(self.tasks.discard)
        self.tasks.add(self.task)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.deferred is not None and not self.busy and not self.transport.is_closing():
            self._write_refusal(self.deferred)
        elif self._answered_early():
            self.clock.expect_rest_of_answered_body()

    def _answered_early(self) -> bool:
        """Whether the answer is complete while its request's body is still coming."""
        return self.clock.phase is Phase.BODY and self.cycle is self.running and not self.busy

    # Time

    def check(self, now: float, period_s: float) -> None:
        """End what has been waited for too long.

        The server calls this for every connection instead of keeping a timer for each request.

        Args:
            now: The loop's time in seconds.
            period_s: Seconds to the next call; what would expire before it ends now, so no limit is overrun.
        """
        soon = now + period_s
        unread = self.write_deadline is not None and soon > self.write_deadline
        if unread or self._left_unnoticed():
            self.abandon()
        elif self.clock.deadline is None or self.deaf or self.transport.is_closing():
            return
        elif self.flow.read_paused or self._awaited_by_client():
            self.clock.restart()
        elif soon > self.clock.deadline:
            part = "body" if self.clock.phase is Phase.BODY else "header"
            self.refuse(RequestTimeout(f"The request's {part} did not arrive in time."))

    def _awaited_by_client(self) -> bool:
        """Whether the client holds its body back until we say 100 Continue."""
        return self.clock.phase is Phase.BODY and self.cycle.waiting_for_100_continue

    def _left_unnoticed(self) -> bool:
        """Whether the client has left while reading is paused, which hides it (known on Linux only)."""
        paused = self.flow.read_paused and self.busy and not self.transport.is_closing()
        if not paused or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    # Refusing

    def _refuse_in_parser(self, error: CorsacError) -> NoReturn:
        self.parser_refusal = error
        raise error

    def send_400_response(self, msg: str) -> None:
        """uvicorn's one way out of every parser error."""
        self.refuse(self.parser_refusal or InvalidRequest("This is not HTTP/1.1 as RFC 9112 has it."))

    def refuse(self, error: CorsacError) -> None:
        """Read no more requests, and answer `error` when it is its turn."""
        if self.deaf or self.transport.is_closing():
            return
        at_fault = self.clock.phase is Phase.BODY and self.cycle is self.running
        self.deaf = True
        if self.busy and not at_fault:
            if self.clock.phase is Phase.BODY:
                self.pipeline.popleft()  # the newest: its body will never be whole
            self.deferred = error
            self.flow.resume_reading()  # only a transport that reads sees its client leave
        elif self.busy and self.running is not None and self.running.response_started:
            self.abandon()  # half an answer is out: nothing true can be added
        elif at_fault and not self.busy:
            self.transport.close()  # it has its answer
        else:
            self._write_refusal(error)

    def _write_refusal(self, error: CorsacError) -> None:
        self._cancel_running()
        request_id = uuid4().hex
        body = problem_bytes(error, request_id)
        headers = [
            *self.server_state.default_headers,
            *problem_headers(error, body),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        self._linger()
        self.on_refusal(error, request_id, self.client[0] if self.client else "unknown")

    def _linger(self) -> None:
        """Close so that the client can read the answer: closing with input unread resets the connection."""
        self.deaf = True
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        if len(self.lingering) >= self.limits.lingering or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.lingering.add(self)
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(self.limits.linger_s, self.transport.abort)
