"""Streaming answers: a handler returns one, and the hub does the rest."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.http.problem import problem_document
from corsac.core.streams.encoding import SSE, Format, format_of, to_json
from corsac.core.streams.event import (
    RESET,
    Event,
    InvalidEventId,
    Record,
    SlowConsumer,
    Transform,
    event_id,
    transformed,
)
from corsac.core.streams.granularity import HEADER, Coalescer, Granularity, granularity_of
from corsac.core.streams.hub import MAX_RESUME_S, StreamHub
from corsac.core.streams.stream import Reader, Stream

HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 10.0
PARTING_S = 1.0
PAUSE_S = 0.001
CHUNK_PAUSE_S = 0.1
PAUSE_EVENTS = 128  # half of what may wait, so that the producer is not held up by the pause
HOLD_S = 1.0
LAG_S = 0.05
RESUME = re.compile(r"(?:^|[,;])\s*resume\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)

Opening = Callable[[float], Awaitable[Stream]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asks of a stream in its headers.

    Args:
        resume_s: `Prefer: resume=<seconds>`, at most 30; 0 where it does not ask.
        granularity: `X-Stream-Granularity`; None: tokens, joined while the client lags.
        last_event_id: `Last-Event-ID`.
    """

    resume_s: float = 0.0
    granularity: Granularity | None = None
    last_event_id: int | None = None

    @classmethod
    def of(cls, scope: Scope) -> Wishes:
        """The wishes of a request.

        Raises:
            InvalidEventId: Last-Event-ID is no number, or stands on a request that begins something new.
            InvalidChoice: The granularity is unknown.
        """
        resume_s, granularity, last_event_id = 0.0, None, None
        for name, value in scope["headers"]:
            if name == b"prefer" and (match := RESUME.search(value.decode("latin-1"))):
                resume_s = min(float(match[1]), MAX_RESUME_S)
            elif name == HEADER.lower().encode():
                granularity = granularity_of(value.decode("latin-1"))
            elif name == b"last-event-id":
                if scope["method"] != "GET":
                    raise InvalidEventId
                last_event_id = event_id(value.decode("latin-1"))
        return cls(resume_s, granularity, last_event_id)


class EventStreamResponse(Response):
    """A stream as an answer. It only reads: the hub owns the producer.

    Args:
        opening: Opens or finds the stream, given how long it is to go on without a reader. What it raises keeps its
            status, because nothing has been sent.
        media_type: `text/event-stream` or `application/x-ndjson`.
        after: Id of the last event that the client has of this stream; None: it is a new stream, so whoever names an
            event of an earlier one gets a `reset` first.
        monotonic: Seconds.
        heartbeat_s: Pause after which a sign of life is sent.
        write_timeout_s: How long a write may stay unread.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        media_type: str,
        after: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        heartbeat_s: float = HEARTBEAT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        super().__init__()
        self.opening, self.format, self.after, self.monotonic = opening, format_of(media_type), after, monotonic
        self.heartbeat_s, self.write_timeout_s = heartbeat_s, write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until the stream or the connection ends."""
        wishes = Wishes.of(scope)
        stream = await self.opening(wishes.resume_s)
        with stream.attach(self.after or 0) as reader:
            if self.after is None and wishes.last_event_id is not None:
                reader.reset = reset_record("NEW_STREAM", "This is a new stream; the earlier one is not continued.")
            await send({"type": "http.response.start", "status": 200, "headers": self._start_headers(stream, wishes)})
            writing = _Writing(self, stream, reader, wishes.granularity, send)
            try:
                await writing.run()
            except SlowConsumer as error:
                stream.metrics.slow_consumers.inc()
                await writing.part(error)
                raise

    def _start_headers(self, stream: Stream, wishes: Wishes) -> list[tuple[bytes, bytes]]:
        headers = [*stream_headers(self.format), (b"location", stream.location.encode())]
        if wishes.resume_s:
            headers.append((b"preference-applied", b"resume=%d" % stream.resume_s))
        if wishes.granularity:
            headers.append((HEADER.lower().encode(), wishes.granularity.encode()))
        return headers


class _Writing:
    """One answer on its way."""

    def __init__(
        self,
        answer: EventStreamResponse,
        stream: Stream,
        reader: Reader,
        granularity: Granularity | None,
        send: Send,
    ) -> None:
        self.answer, self.stream, self.reader, self.send_raw = answer, stream, reader, send
        self.adaptive = granularity is None
        self.coalescer = Coalescer(granularity or "chunk")
        self.pause_s = CHUNK_PAUSE_S if granularity == "chunk" else PAUSE_S
        self.lags = False
        self.sent_at = answer.monotonic()

    async def run(self) -> None:
        reader, coalescer, form = self.reader, self.coalescer, self.answer.format
        head = form.preamble
        if reader.reset is not None:
            self.stream.metrics.resets.inc()
            head += form.frames([reader.reset])
        await self._send(head)
        while not reader.finished:
            await reader.wait(1, HOLD_S if coalescer.holding else self._silence_left_s())
            records: Sequence[Record] = reader.take()
            if not records:
                records = coalescer.flush()
            elif self.lags or not self.adaptive:
                records = coalescer.take(records)
            if records:
                await self._send(form.frames(records))
                self.stream.metrics.frames.inc(len(records))
                # What comes meanwhile goes out as one write; a single event never waits.
                await reader.wait(PAUSE_EVENTS, self.pause_s)
            elif self._silence_left_s() <= 0:
                await self._send(form.heartbeat)
        await self._send(form.frames(coalescer.flush()), more=False)

    def _silence_left_s(self) -> float:
        return self.sent_at + self.answer.heartbeat_s - self.answer.monotonic()

    async def part(self, error: SlowConsumer) -> None:
        """Say why it ends here, to a client that has come back in the last moment."""
        stream, call = self.stream, self.stream.call
        problem = problem_document(error, call.request_id, call.service, call.operation)
        if stream.resume_s:
            problem["hint"] = f"GET {stream.location} with Last-Event-ID within {stream.resume_s:.0f} s goes on."
        frame = self.answer.format.frames([Record(0, "error", to_json(problem))])
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_S):
                await self.send_raw({"type": "http.response.body", "body": frame, "more_body": True})

    async def _send(self, body: bytes, *, more: bool = True) -> None:
        began = self.answer.monotonic()
        try:
            async with asyncio.timeout(self.answer.write_timeout_s) as timer:
                await self.send_raw({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            if timer.expired():
                raise SlowConsumer from None
            raise
        self.sent_at = self.answer.monotonic()
        self.lags = self.sent_at - began > LAG_S
        self.stream.metrics.bytes.inc(len(body))


def stream_headers(form: Format) -> list[tuple[bytes, bytes]]:
    """The headers of a stream: no cache keeps it and no proxy holds it back."""
    return [
        (b"content-type", form.content_type.encode()),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
        (b"vary", b"accept"),
    ]


def reset_record(reason: str, detail: str) -> Record:
    """An event that says: what the client has is not continued without a gap."""
    return Record(0, RESET, to_json({"reason": reason, "detail": detail}))


class ResetResponse(Response):
    """A stream of one `reset` event: what the client wants to go on with is gone, and was not complete.

    Args:
        media_type: As for `EventStreamResponse`.
        reason: One word.
        detail: A sentence.
    """

    def __init__(self, *, media_type: str, reason: str, detail: str) -> None:
        form = format_of(media_type)
        headers = {name.decode(): value.decode() for name, value in stream_headers(form)}
        super().__init__(form.preamble + form.frames([reset_record(reason, detail)]), headers=headers)


class StreamingResponseMixin:
    """Streaming answers for a router. Early failures keep their status; late ones are an `error` event.

    @post("/count", events={"number": Number})
    async def count(self, body: CountRequest, call: Call) -> EventStreamResponse:
        return self.create_streaming_response(self.manager.count(body), call)
    """

    streams: StreamHub

    def create_streaming_response(
        self,
        events: AsyncIterator[Event],
        call: Call,
        *,
        lossless: bool = True,
        transform: Transform | None = None,
        media_type: str = "",
        after: int | None = None,
    ) -> EventStreamResponse:
        """A stream in the format that the client accepts.

        Args:
            events: The producer; not begun before the answer is.
            call: Whose stream it is.
            lossless: Whether the producer waits for slow readers; else they miss the oldest events.
            transform: Changes events or leaves them out.
            media_type: Empty: the one that was negotiated.
            after: For a producer that reads a journal: the id after which it begins.
        """
        source = transformed(events, transform) if transform else events

        def opening(resume_s: float) -> Awaitable[Stream]:
            return self.streams.open(source, call, resume_s=resume_s, lossless=lossless)

        after = None if after is None else 0  # the producer itself begins there
        return EventStreamResponse(opening, media_type=media_type or call.media_type, after=after)

    def create_sse_response(
        self, events: AsyncIterator[Event], call: Call, *, lossless: bool = True, transform: Transform | None = None
    ) -> EventStreamResponse:
        """The same, always as server-sent events."""
        return self.create_streaming_response(
            events, call, lossless=lossless, transform=transform, media_type=SSE.content_type
        )
