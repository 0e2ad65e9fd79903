"""Owns every stream's producer: its task, its place among the others, its deadline and its end."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CorsacError, DeadlineExceeded, NotFound, ShuttingDown
from corsac.core.http.problem import problem_document
from corsac.core.streams.event import HUB_TYPES, Event, TooManyStreams, close
from corsac.core.streams.metrics import StreamMetrics
from corsac.core.streams.stream import Stream, StreamLimits
from corsac.core.streams.websocket import SocketPool

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger
    from corsac.core.metrics import Metrics

STREAM_ID = re.compile(r"([0-9a-f]{8})-[0-9a-f]{24}")
MAX_STREAMS = 1000
MAX_RESUME_S = 30.0
FIRST_EVENT_S = 10.0
UNREAD_S = 10.0  # between the stream's start and its first reader
CLOSING_S = 5.0
# A request's deadline cuts its answer off; the stream's own end has to be written before.
BEFORE_DEADLINE_S = 0.25


class StreamHub:
    """All open streams of one server.

    Args:
        logger: Gets what producers raise, with the traceback where it was not foreseen.
        metrics: Counts streams, and the errors of their operations.
        limits: How much waits for whom.
        max_streams: How many streams there may be.
        monotonic: Seconds.
        boot: Eight hexadecimal digits, other ones at every start.
    """

    def __init__(
        self,
        logger: Logger,
        metrics: Metrics,
        *,
        limits: StreamLimits | None = None,
        max_streams: int = MAX_STREAMS,
        monotonic: Callable[[], float] = time.monotonic,
        boot: str = "",
    ) -> None:
        self.boot = boot or secrets.token_hex(4)
        self.sockets = SocketPool(metrics.registry)
        self.closing = False
        self._logger, self._metrics, self._streams_metrics = logger, metrics, StreamMetrics(metrics.registry)
        self._limits, self._max_streams, self._monotonic = limits or StreamLimits(), max_streams, monotonic
        self._streams: dict[str, Stream] = {}
        self._producers: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._streams)

    async def open(
        self,
        events: AsyncIterator[Event],
        call: Call,
        *,
        resume_s: float = 0.0,
        lossless: bool = True,
        deadline_s: float = 600.0,
    ) -> Stream:
        """Begin a stream. Comes back with the first event, or after 10 seconds without one.

        Args:
            events: The producer; closed at the end, whatever the end is.
            call: Whose stream it is; its deadline holds too.
            resume_s: How long it goes on without a reader, in seconds, up to 30; 0: its last reader ends it.
            lossless: Whether the producer waits for slow readers; else they miss the oldest events.
            deadline_s: How long it may take at most, in seconds.

        Raises:
            CorsacError: The producer failed before its first event.
            TooManyStreams, ShuttingDown: As they say.
        """
        try:
            self._admit()
            left_s = call.remaining_s(deadline_s)
        except CorsacError:
            await close(events)
            raise
        stream = self._new_stream(call, min(resume_s, MAX_RESUME_S), lossless)
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        work = self._produce(stream, events, first, max(left_s / 2, left_s - BEFORE_DEADLINE_S))
        producer = self._producers[stream.id] = asyncio.create_task(work, name=f"stream {stream.id}")
        self._running.add(producer)
        producer.add_done_callback(self._running.discard)
        try:
            await asyncio.wait({first}, timeout=FIRST_EVENT_S)
        except asyncio.CancelledError:
            first.cancel()
            self._discard(stream)
            raise
        if first.done() and (error := first.exception()) is not None:
            self._discard(stream)
            raise error
        if not first.done():
            first.cancel()  # from here on a failure is an event
        return stream

    def find(self, stream_id: str, call: Call) -> Stream:
        """The stream of an id, for its owner.

        Raises:
            NotFound: There is none, or it is another's.
        """
        stream = self._streams.get(stream_id)
        if stream is None or call.caller is None or stream.owner != call.caller.id:
            raise NotFound
        return stream

    def is_of_another_start(self, stream_id: str) -> bool:
        """Whether an id was given out before this server's start; its events are gone."""
        match = STREAM_ID.fullmatch(stream_id)
        return match is not None and match[1] != self.boot

    def shut_down(self) -> None:
        """End all streams with a `shutdown` event that says where to go on; take no more."""
        self.closing = True
        self.sockets.shut_down()
        for stream in list(self._streams.values()):
            if not stream.ended:
                detail = "The server is shutting down; resume after this event once it is back."
                place = {"stream": stream.id, "location": stream.location, "last_event_id": stream.ring.last_id}
                stream.end(Event("shutdown", {"detail": detail, **place}))
            self._stop_producer(stream)

    async def close(self) -> None:
        """End all producers and wait for what they have in their `finally`."""
        self.shut_down()
        for stream in list(self._streams.values()):
            self._discard(stream)
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSING_S)

    def _admit(self) -> None:
        if self.closing:
            raise ShuttingDown(retry_after_s=5)
        if len(self._streams) >= self._max_streams:
            finished = (each for each in self._streams.values() if each.ended and not each.readers)
            oldest = next(finished, None)
            if oldest is None:
                raise TooManyStreams(retry_after_s=5)
            self._discard(oldest)

    def _new_stream(self, call: Call, resume_s: float, lossless: bool) -> Stream:
        stream = Stream(
            f"{self.boot}-{secrets.token_hex(12)}",
            call,
            resume_s=resume_s,
            lossless=lossless,
            limits=self._limits,
            metrics=self._streams_metrics.of(call.service),
            on_readers=self._readers_changed,
            monotonic=self._monotonic,
        )
        self._streams[stream.id] = stream
        self._expire_in(stream, FIRST_EVENT_S + UNREAD_S)
        return stream

    # Producers

    async def _produce(
        self, stream: Stream, events: AsyncIterator[Event], first: asyncio.Future[None], deadline_s: float
    ) -> None:
        stream.metrics.open.inc()
        timer = asyncio.timeout(deadline_s)
        try:
            async with timer:
                async for event in events:
                    if event.type in HUB_TYPES:
                        raise ValueError(f"Events of the type {event.type} are the hub's.")
                    stream.append(event)
                    if not first.done():
                        first.set_result(None)
                    await stream.room()
            stream.end(Event("done", {"n_events": stream.ring.end}))
        except Exception as error:  # noqa: BLE001 - translated, counted and logged there
            self._fail(stream, DeadlineExceeded() if timer.expired() else error, first)
        finally:
            if not first.done():
                first.set_result(None)
            stream.metrics.open.dec()
            await self._close(events)

    def _fail(self, stream: Stream, error: Exception, first: asyncio.Future[None]) -> None:
        call = stream.call
        handler = ServiceErrorHandler(call.service, self._logger, self._metrics)
        ours = handler.handle_service_error(call.operation, error)
        if not first.done():
            ours.__cause__ = None if ours is error else error
            first.set_exception(ours)
            stream.end(None)
        else:
            stream.end(Event("error", problem_document(ours, call.request_id, call.service, call.operation)))

    async def _close(self, events: AsyncIterator[Event]) -> None:
        try:
            async with asyncio.timeout(CLOSING_S):
                await close(events)
        except Exception as error:
            self._logger.error("a stream's producer did not end cleanly", exc_info=error)

    def _stop_producer(self, stream: Stream) -> None:
        producer = self._producers.pop(stream.id, None)
        if producer is not None:
            producer.cancel()

    # Readers

    def _readers_changed(self, stream: Stream) -> None:
        if stream.readers or stream.id not in self._streams:
            self._keep(stream)
        elif stream.resume_s and not self.closing:
            self._expire_in(stream, stream.resume_s)
        else:
            self._discard(stream)

    def _keep(self, stream: Stream) -> None:
        timer = self._expiries.pop(stream.id, None)
        if timer is not None:
            timer.cancel()
            stream.metrics.detached.dec()

    def _expire_in(self, stream: Stream, seconds: float) -> None:
        stream.metrics.detached.inc()
        self._expiries[stream.id] = asyncio.get_running_loop().call_later(seconds, self._discard, stream)

    def _discard(self, stream: Stream) -> None:
        self._keep(stream)
        if self._streams.pop(stream.id, None) is not None:
            self._stop_producer(stream)
            stream.end(None)
