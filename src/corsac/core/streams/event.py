"""One event of a stream, and what is refused about events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from corsac.core.exceptions import InvalidRequest, RequestTimeout, Unavailable

TYPE = re.compile(r"[a-z_]{1,32}")
HUB_TYPES = frozenset({"done", "error", "shutdown"})
"""Types that end a stream. Only the hub makes them: a producer that could would forge a complete answer."""
RESET = "reset"
"""Type of the event that says: what was sent before cannot be continued without a gap."""
MAX_EVENT_BYTES = 1 << 20
MAX_ID = (1 << 63) - 1


class InvalidEventId(InvalidRequest):
    """The event id is not one of a stream.

    Last-Event-ID is the number of the last event that arrived, on `GET /api/streams/{id}` and other streams that are
    read by GET. A POST begins a new stream and takes none.
    """

    reason = "INVALID_EVENT_ID"


class SlowConsumer(RequestTimeout):
    """The client reads the stream too slowly.

    What was sent stayed unread for 10 seconds. The hint says where the stream goes on, if that was asked for.
    """

    reason = "SLOW_CONSUMER"


class TooManyStreams(Unavailable):
    """There are as many streams as the server takes.

    Read open ones to their end, or close them.
    """

    reason = "TOO_MANY_STREAMS"


@dataclass(frozen=True, slots=True)
class Event:
    """What a producer yields.

    Neighbours of one type whose data differ in nothing but a text under `text` may reach a slow client as one event,
    with their texts joined.

    Args:
        type: Matches `[a-z_]{1,32}`.
        data: What JSON can express, or a pydantic model.
        id: 0: the stream numbers it, from 1. A producer that reads a journal gives the journal's own rising numbers.
    """

    type: str
    data: Any = None
    id: int = 0


class Record(NamedTuple):
    """An event as a stream keeps it.

    Args:
        id: Its number in the stream; 0: none, as for `reset`.
        type: The event's type.
        json: Its data as JSON in one line.
        at: When it came, on the stream's clock, seconds.
        end_bytes: Bytes of JSON that the stream has seen, this record's included.
    """

    id: int
    type: str
    json: bytes
    at: float = 0.0
    end_bytes: int = 0


Transform = Callable[[Event], Event | None]
"""Makes another event of an event, or none: it filters and it changes."""


async def transformed(events: AsyncIterator[Event], change: Transform) -> AsyncIterator[Event]:
    """The events as `change` makes them; those of which it makes none are left out."""
    try:
        async for event in events:
            changed = change(event)
            if changed is not None:
                yield changed
    finally:
        await close(events)


async def close(events: AsyncIterator[Event]) -> None:
    """Run what a generator has in its `finally`; other iterators have nothing to close."""
    aclose = getattr(events, "aclose", None)
    if aclose is not None:
        await aclose()


def event_id(text: str) -> int:
    """The number in a Last-Event-ID header.

    Raises:
        InvalidEventId: It is no whole number from 0.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MAX_ID:
        raise InvalidEventId("Last-Event-ID takes the number of an event, a whole number from 0.")
    return int(text)
