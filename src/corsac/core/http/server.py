"""The server's life: it drains on a signal with the listener still open, and always ends with exit code 0.

Stock uvicorn closes the listener first, waits for open connections without end and raises the signal again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from corsac.core.http.lifespan import Lifespan
from corsac.core.http.limits import ProtocolLimits
from corsac.core.http.listener import listening_refused, open_listener
from corsac.core.http.protocol import LimitedProtocol, OnRefusal

Address = tuple[str, int]
"""Host and port."""

BACKLOG = 2048
CHECK_EVERY_TICKS = 2
TICK_S = 0.1  # the period of uvicorn's main loop
STREAM_GRACE_S = 1.5
STOPPING_S = 4.0  # for ending streams and the application's own stop, after the drain
STARTUP_EXIT_S = 8.0
FORCED_EXIT_S = 2.0
WEBSOCKET_MESSAGE_BYTES = 1 << 20
WEBSOCKET_PING_S = 20.0


def _nothing(*_: object) -> None:
    """What a hook does that was not given."""


def _no_streams() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the application hears from the server, in the event loop and never in a signal's frame.

    Attributes:
        on_listening: The server takes connections at this address.
        on_drain: The end has begun; called within 200 ms of the signal.
        on_reload: SIGHUP arrived.
        on_refusal: The protocol refused a request.
        stop_streams: Open streams shall end by themselves, within 1.5 s.
        open_streams: How many answers are being streamed; the drain does not wait for these.
    """

    on_listening: Callable[[Address], object] = _nothing
    on_drain: Callable[[], object] = _nothing
    on_reload: Callable[[], object] = _nothing
    on_refusal: OnRefusal = _nothing
    stop_streams: Callable[[], object] = _nothing
    open_streams: Callable[[], int] = _no_streams


class Server(uvicorn.Server):
    """One listener, its connections and the signals of the process.

    Args:
        app: The application; its lifespan is run.
        listener: A bound socket, from `open_listener`; closed at the end.
        limits: What clients may do.
        hooks: Whom to tell.
        drain_timeout_s: How long requests get to finish after the first signal.
        monotonic: The clock, in seconds.

    Attributes:
        draining: Whether a signal to end has arrived; new work is to be refused from then on.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        limits: ProtocolLimits,
        hooks: Hooks,
        drain_timeout_s: float = 20.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        config = _uvicorn_config(app, limits)
        config.load()
        config.lifespan_class = lambda _config: Lifespan(app)
        super().__init__(config)
        self.draining = False
        self._listener, self._limits, self._hooks = listener, limits, hooks
        self._drain_timeout_s, self._monotonic = drain_timeout_s, monotonic
        self._logger = logging.getLogger("uvicorn.error")
        self._lingering: set[LimitedProtocol] = set()
        self._in_flight: set[asyncio.Task[None]] | None = None  # as the drain began; WebSockets are not waited for
        self._drain_until = 0.0
        self._exit_at: float | None = None
        self._reload_asked = self._ended = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, in an event loop of its own.

        Raises:
            StartRefused: The application refused to start, or another program took the port meanwhile.
        """
        threading.Thread(target=self._watch, name="server-watchdog", daemon=True).start()
        try:
            with self._listener:
                super().run(sockets=[self._listener])
        finally:
            self._ended = True

    # Signals

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Own the signals, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_exit,
            signal.SIGHUP: self._ask_reload,
        }
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            # Once draining the process is ending, and a late second signal must still find our handler.
            if not self.draining:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second time, end at once.

        A signal's frame may interrupt anything, locks included: it only sets attributes.
        """
        now = self._monotonic()
        if not self.draining:
            self._drain_until = now + self._drain_timeout_s
            self._exit_at = now + (self._drain_timeout_s + STOPPING_S if self.started else STARTUP_EXIT_S)
            self.draining = True
        else:
            self.should_exit = self.force_exit = True
            self._exit_at = min(self._exit_at or now, now + FORCED_EXIT_S)

    def _ask_reload(self, _signal: int, _frame: FrameType | None) -> None:
        self._reload_asked = True

    def _watch(self) -> None:
        """Bound the exit: stuck threads and the application's own stop would hold it without end."""
        while self._exit_at is None or self._monotonic() < self._exit_at:
            if self._ended and self._exit_at is None:
                return
            time.sleep(TICK_S)
        os._exit(0)

    # Start, ticks, end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        starting = asyncio.ensure_future(self.lifespan.startup())
        while not starting.done() and not self.draining:
            await asyncio.wait({starting}, timeout=TICK_S)
        if self.draining:
            starting.cancel()  # changes nothing if it is done
            await asyncio.wait({starting})
        if starting.cancelled():
            self.should_exit = True
            return
        starting.result()
        address = self._listener.getsockname()[:2]
        try:
            self._listener.listen(BACKLOG)  # here, because uvloop keeps a failure of it to itself
        except OSError as error:
            await self.lifespan.shutdown()
            raise listening_refused(error, *address) from error
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(self._new_connection, sock=self._listener, backlog=BACKLOG)]
        self.started = True
        self._hooks.on_listening(address)

    def _new_connection(self) -> LimitedProtocol:
        return LimitedProtocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            limits=self._limits,
            on_refusal=self._hooks.on_refusal,
            lingering=self._lingering,
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % CHECK_EVERY_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in self._http_connections():
                connection.check(now, CHECK_EVERY_TICKS * TICK_S)
        if self._reload_asked:
            self._reload_asked = False
            self._tell(self._hooks.on_reload)
        if self.draining and not self.should_exit:
            await self._drain()
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        if self._in_flight is None:
            self._tell(self._hooks.on_drain)
            self._in_flight = {c.task for c in self._http_connections() if c.task is not None}
        n_unfinished = sum(not task.done() for task in self._in_flight)
        if n_unfinished <= self._hooks.open_streams() or self._monotonic() >= self._drain_until:
            await self._end_streams(self._in_flight)
            self.should_exit = True

    async def _end_streams(self, streams: set[asyncio.Task[None]]) -> None:
        self._tell(self._hooks.stop_streams)
        grace_until = self._monotonic() + STREAM_GRACE_S
        while streams and self._monotonic() < grace_until and not self.force_exit:
            _, streams = await asyncio.wait(streams, timeout=TICK_S)
        for connection in self._http_connections():
            if connection.busy:
                connection.abandon()

    def _http_connections(self) -> list[LimitedProtocol]:
        return [c for c in self.server_state.connections if isinstance(c, LimitedProtocol)]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        except Exception:
            self._logger.exception("The application failed while it stopped.")

    def _tell(self, hook: Callable[[], object]) -> None:
        try:
            hook()
        except Exception:
            self._logger.exception("A hook of the server failed.")


def _uvicorn_config(app: ASGIApp, limits: ProtocolLimits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=LimitedProtocol,
        ws="websockets-sansio",
        ws_max_size=WEBSOCKET_MESSAGE_BYTES,
        ws_ping_interval=WEBSOCKET_PING_S,
        ws_ping_timeout=WEBSOCKET_PING_S,
        log_config=None,  # its loggers propagate to the handlers that the process has
        log_level="error",
        access_log=False,
        workers=1,
        proxy_headers=False,  # stock would believe forwarded headers of any loopback peer
        forwarded_allow_ips=[],
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=1,
    )


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    limits: ProtocolLimits | None = None,
    on_listening: Callable[[Address], object] = _nothing,
    on_drain: Callable[[], object] = _nothing,
    on_reload: Callable[[], object] = _nothing,
    on_refusal: OnRefusal = _nothing,
    stop_streams: Callable[[], object] = _nothing,
    open_streams: Callable[[], int] = _no_streams,
    drain_timeout_s: float = 20.0,
) -> None:
    """Serve until a signal ends it. The process ends at most 5 s after `drain_timeout_s`, whatever is stuck.

    Args:
        app: The application; its lifespan is run before the first connection and after the last.
        host: A name or address of this machine.
        port: 0 to 65535; 0 lets the system choose, and `on_listening` learns the choice.
        limits: What clients may do; None for the defaults.
        on_listening, on_drain, on_reload, on_refusal, stop_streams, open_streams: See `Hooks`.
        drain_timeout_s: How long requests get to finish after the first signal.

    Raises:
        StartRefused: The address cannot be had, or the application refused to start.
    """
    limits = limits or ProtocolLimits()
    hooks = Hooks(on_listening, on_drain, on_reload, on_refusal, stop_streams, open_streams)
    listener = open_listener(host, port, unacknowledged_timeout_s=limits.unacknowledged_timeout_s)
    Server(app, listener, limits=limits, hooks=hooks, drain_timeout_s=drain_timeout_s).run()
