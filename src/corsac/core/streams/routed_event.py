"""A stored event, which events somebody wants, and a loop over those that come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from corsac.core.streams.event import Event


@dataclass(frozen=True, slots=True)
class RoutedEvent:
    """An event as it is stored.

    Args:
        number: Rises; 0 before it is stored.
        at: Seconds since the epoch.
        type: Matches `[a-z_]{1,32}`.
        service: Whose event it is.
        content: JSON.
    """

    number: int
    at: float
    type: str
    service: str
    content: bytes

    @property
    def data(self) -> Any:
        """What the publisher said."""
        return orjson.loads(self.content)

    def as_stream_event(self) -> Event:
        """The event for a stream, under its own number."""
        return Event(self.type, {"at": self.at, "service": self.service, "data": self.data}, self.number)


@dataclass(frozen=True, slots=True)
class Where:
    """Which events somebody wants: all that fit every condition.

    Args:
        types: One of these types; empty: any.
        services: Of one of these services; empty: any.
        since: Not before this, seconds since the epoch.
        until: Before this, seconds since the epoch.
    """

    types: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None

    def fits(self, event: RoutedEvent) -> bool:
        """Whether the event is wanted."""
        return (
            (not self.types or event.type in self.types)
            and (not self.services or event.service in self.services)
            and (self.since is None or event.at >= self.since)
            and (self.until is None or event.at < self.until)
        )

    def sql(self) -> tuple[str, list[str | float]]:
        """The same as a condition of SQL and its values."""
        conditions, values = ["1"], list[str | float]()
        for column, names in (("type", self.types), ("service", self.services)):
            if names:
                conditions.append(f"{column} IN ({', '.join('?' * len(names))})")
                values += sorted(names)
        if self.since is not None:
            conditions.append("at >= ?")
            values.append(self.since)
        if self.until is not None:
            conditions.append("at < ?")
            values.append(self.until)
        return " AND ".join(conditions), values


Handler = Callable[[RoutedEvent], Awaitable[None] | None]
Change = Callable[[RoutedEvent], RoutedEvent | None]


class Subscription:
    """The events that came since it began, as a loop; a slow loop misses the oldest.

    Args:
        where: Which events.
        change: Makes another event of an event, or none.
        capacity: Events that may wait.

    Attributes:
        n_missed: Events that the loop was too slow for.
    """

    def __init__(self, where: Where, change: Change | None = None, capacity: int = 256) -> None:
        self.where, self.change, self.n_missed = where, change, 0
        self._waiting: deque[RoutedEvent] = deque(maxlen=capacity)
        self._arrived = asyncio.Event()

    def offer(self, event: RoutedEvent) -> None:
        """Take an event if it is wanted."""
        changed = self.change(event) if self.change else event
        if changed is None:
            return
        self.n_missed += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(changed)
        self._arrived.set()

    async def arrival(self) -> None:
        """Wait until something has come; what has come is left to others."""
        await self._arrived.wait()
        self._arrived.clear()
        self._waiting.clear()

    async def __aiter__(self) -> AsyncIterator[RoutedEvent]:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                yield self._waiting.popleft()
