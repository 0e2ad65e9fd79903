"""Streams that go on after a drop, and the events of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Header, Path, Query
from pydantic import Field
from starlette.responses import Response

from corsac.core.base_router import BaseRouter, get
from corsac.core.bodies import Reply
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.event_handlers import EventAnalytics, EventRouter
from corsac.core.exceptions import InvalidId
from corsac.core.identity import ANY
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.streaming_mixin import EventStreamResponse, ResetResponse, StreamingResponseMixin
from corsac.core.streams.event import MAX_ID, Event, InvalidEventId, event_id
from corsac.core.streams.hub import StreamHub
from corsac.core.streams.routed_event import RoutedEvent, Where
from corsac.core.streams.stream import Stream
from corsac.core.validation import refused_as

StreamId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,19}$", max_length=19, description="Last event that arrived."),
    refused_as(InvalidEventId),
]
After = Annotated[int | None, Query(ge=0, le=MAX_ID, description="The same, for clients that cannot set headers.")]
Names = Annotated[list[Annotated[str, Field(max_length=64)]], Query(max_length=20)]


class EventView(Reply):
    """An event of the server."""

    number: int
    at: datetime
    type: str
    service: str
    data: Any

    @classmethod
    def of(cls, event: RoutedEvent) -> EventView:
        """The view of an event."""
        at = datetime.fromtimestamp(event.at, UTC)
        return cls(number=event.number, at=at, type=event.type, service=event.service, data=event.data)


class Replay(Reply):
    """Stored events, oldest first."""

    events: list[EventView]
    next_after: int | None = Field(description="Asks for the next page as `after`; null on the last one.")


class StreamsRouter(StreamingResponseMixin, BaseRouter):
    """Resumes streams; follows, replays and counts events."""

    prefix = "/api"
    tag = "streams"

    def __init__(
        self, errors: ServiceErrorHandler, limiter: RateLimiter, *, streams: StreamHub, events: EventRouter
    ) -> None:
        super().__init__(errors, limiter)
        self.streams = streams
        self.events = events

    @get("/streams/{stream_id}", scope=ANY, while_down=True, events={})
    async def resume(
        self, stream_id: StreamId, call: Call, last_event_id: LastEventId = None, after: After = None
    ) -> Response:
        """Go on with a stream of one's own after the last event that arrived.

        A stream that began with `Prefer: resume=<seconds>` waits that long for its client. Where events are missing,
        the first one is a `reset`.
        """
        known = known_id(last_event_id, after)
        if known and self.streams.is_of_another_start(stream_id):
            detail = "The server was restarted and the stream went with it, before its end."
            return ResetResponse(media_type=call.media_type, reason="RESTARTED", detail=detail)
        stream = self.streams.find(stream_id, call)

        async def opening(_resume_s: float) -> Stream:
            stream.metrics.resumes.inc()
            return stream

        return EventStreamResponse(opening, media_type=call.media_type, after=known or 0)

    @get("/events", while_down=True, events={"ready": dict[str, int], "<type>": dict[str, Any]})
    async def follow(
        self,
        call: Call,
        type: Names = [],  # noqa: A002, B006
        service: Names = [],  # noqa: B006
        last_event_id: LastEventId = None,
        after: After = None,
    ) -> EventStreamResponse:
        """Events as they happen; with an id, first those since that one."""
        where = Where(frozenset(type), frozenset(service))
        known = known_id(last_event_id, after)
        events: AsyncIterator[Event] = self.events.follow(known, where)
        return self.create_streaming_response(events, call, after=known)

    @get("/events/replay", while_down=True)
    async def replay(
        self,
        since: Annotated[datetime | None, Query(alias="from", description="RFC 3339 time.")] = None,
        until: Annotated[datetime | None, Query(description="RFC 3339 time.")] = None,
        type: Names = [],  # noqa: A002, B006
        service: Names = [],  # noqa: B006
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Replay:
        """Events that happened, oldest first."""
        where = Where(frozenset(type), frozenset(service), seconds(since), seconds(until))
        found = await self.events.replay(where, after=after or 0, limit=limit)
        more = found[-1].number if len(found) == limit else None
        return Replay(events=[EventView.of(each) for each in found], next_after=more)

    @get("/events/analytics", while_down=True)
    async def analytics(
        self, window_s: Annotated[float, Query(ge=60, le=7 * 86_400, description="Seconds up to now.")] = 3600
    ) -> EventAnalytics:
        """How many events of which kind there were, and how quickly they were delivered."""
        return await self.events.analytics(window_s)


def known_id(header: str | None, after: int | None) -> int | None:
    """The last event that a client has, by its header or else by its query.

    Raises:
        InvalidEventId: The header is no number.
    """
    return after if header is None else event_id(header)


def seconds(moment: datetime | None) -> float | None:
    """Seconds since the epoch; a moment without a time zone is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
