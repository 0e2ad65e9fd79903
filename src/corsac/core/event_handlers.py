"""What happens in the server, for whoever wants to know: published, stored, routed, replayed and counted.

    router.publish("voice_added", "tts", {"voice": "joe"})

    router.route(handler, Where(types={"voice_added"}))           # a function for each
    with router.subscribe(Where(services={"tts"})) as events:     # or a loop over them
        async for event in events: ...

An event is delivered once it is stored, so nobody hears of an event that a crash takes back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from corsac.core.exceptions import CorsacError
from corsac.core.streams.encoding import to_json
from corsac.core.streams.event import RESET, TYPE, Event
from corsac.core.streams.routed_event import Change, Handler, RoutedEvent, Subscription, Where

if TYPE_CHECKING:
    import apsw

    from corsac.core.logging_config import Logger
    from corsac.core.storage.database import Database

MAX_CONTENT_BYTES = 16 << 10
MAX_WAITING = 1000
BATCH = 200
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
COLUMNS = "number, at, type, service, content"


class EventRouter:
    """Stores events and hands them to whoever asked for them.

    Args:
        database: Keeps the events.
        logger: Gets the failures of handlers.
        registry: Gets `corsac_events`, `corsac_events_lost` and `corsac_event_lag_seconds`.
        max_events: Events that are kept.
        max_age_s: Seconds for which they are kept.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        *,
        logger: Logger,
        registry: CollectorRegistry,
        max_events: int = 50_000,
        max_age_s: float = 7 * 86_400.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._logger, self._now = database, logger, now
        self._max_events, self._max_age_s = max_events, max_age_s
        self._waiting: deque[RoutedEvent] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._subscriptions: set[Subscription] = set()
        self._handlers: list[tuple[Where, Handler]] = []
        self._counted = Counter("corsac_events", "Events by type and service.", ("type", "service"), registry=registry)
        self._lost = Counter("corsac_events_lost", "Events that could not be stored.", registry=registry)
        self._lag = Histogram(
            "corsac_event_lag_seconds", "From publishing to delivery.", buckets=LAG_S, registry=registry
        )

    # Publishing

    def publish(self, event_type: str, service: str, data: Any = None) -> None:
        """Store an event and deliver it, both soon; never waits.

        Args:
            event_type: Matches `[a-z_]{1,32}`.
            service: Whose event it is.
            data: What JSON can express in 16 KiB; holds no secrets, for administrators read it.

        Raises:
            ValueError: The type or the size cannot be.
        """
        content = to_json(data)
        if not TYPE.fullmatch(event_type) or len(content) > MAX_CONTENT_BYTES:
            raise ValueError("An event has a type of a-z and underscore, and at most 16 KiB of JSON.")
        if len(self._waiting) >= MAX_WAITING:
            self._lost.inc()
            return
        self._waiting.append(RoutedEvent(0, self._now(), event_type, service, content))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_and_deliver(), name="write events")

    async def flush(self) -> None:
        """Wait until everything that was published is delivered."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})

    async def _write_and_deliver(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                numbers = await self._database.write(lambda db, batch=batch: self._insert(db, batch))  # type: ignore[misc]
            except CorsacError as error:
                self._lost.inc(len(batch))
                self._logger.error("events lost", n_events=len(batch), reason=error.reason)
                continue
            for event, number in zip(batch, numbers, strict=True):
                await self._deliver(RoutedEvent(number, event.at, event.type, event.service, event.content))

    def _insert(self, db: apsw.Connection, batch: list[RoutedEvent]) -> list[int]:
        numbers = []
        for event in batch:
            row = (event.at, event.type, event.service, event.content.decode())
            db.execute("INSERT INTO events(at, type, service, content) VALUES (?, ?, ?, ?)", row).fetchall()
            numbers.append(db.last_insert_rowid())
        oldest = (numbers[-1] - self._max_events, self._now() - self._max_age_s, 2 * BATCH)
        # In steps, so that a unit stays short even where much is due at once.
        db.execute(
            "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE number <= ? OR at < ?"
            " ORDER BY number LIMIT ?)",
            oldest,
        ).fetchall()
        return numbers

    async def _deliver(self, event: RoutedEvent) -> None:
        self._counted.labels(event.type, event.service).inc()
        self._lag.observe(max(0.0, self._now() - event.at))
        for subscription in tuple(self._subscriptions):
            if subscription.where.fits(event):
                subscription.offer(event)
        for where, handler in tuple(self._handlers):
            if where.fits(event):
                try:
                    told = handler(event)
                    if told is not None:
                        await told
                except Exception as error:
                    self._logger.error("event handler failed", type=event.type, number=event.number, exc_info=error)

    # Listening

    def route(self, handler: Handler, where: Where | None = None) -> Callable[[], None]:
        """Have `handler` called for each event; one that raises is logged and disturbs nobody.

        Returns:
            Ends it.
        """
        entry = (where or Where(), handler)
        self._handlers.append(entry)
        return lambda: self._handlers.remove(entry)

    @contextmanager
    def subscribe(self, where: Where | None = None, change: Change | None = None) -> Iterator[Subscription]:
        """The events from now on, for as long as the block lasts.

        Args:
            where: Which events.
            change: Makes another event of an event, or none.
        """
        subscription = Subscription(where or Where(), change)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def follow(self, after: int | None = None, where: Where | None = None) -> AsyncIterator[Event]:
        """The stored events after a number and then those that come, without a gap, for a stream.

        The first event is `ready`, or `reset` where events after the number are no longer kept.

        Args:
            after: Number of the last event that is known; 0: all that are kept; None: only those that come.
            where: Which events.
        """
        where = where or Where()
        with self.subscribe(where) as arrivals:  # before the look into the database, so that none falls between
            first, last = await self._database.read(_bounds)
            known = last if after is None else after or first - 1
            if known < first - 1 or known > last:
                detail = "Events after this number are no longer kept; those that follow are all there are."
                yield Event(RESET, {"reason": "EXPIRED", "detail": detail, "after": known}, first - 1)
                known = first - 1
            else:
                yield Event("ready", {"after": known}, known)
            while True:
                page = await self.replay(where, after=known)
                for event in page:
                    known = event.number
                    yield event.as_stream_event()
                if len(page) < BATCH:
                    await arrivals.arrival()

    async def replay(self, where: Where | None = None, *, after: int = 0, limit: int = BATCH) -> list[RoutedEvent]:
        """Stored events, oldest first.

        Args:
            where: Which events.
            after: Those with greater numbers.
            limit: At most so many.
        """
        condition, values = (where or Where()).sql()
        query = f"SELECT {COLUMNS} FROM events WHERE number > ? AND {condition} ORDER BY number LIMIT ?"  # noqa: S608
        rows = await self._database.read(lambda db: db.execute(query, (after, *values, limit)).fetchall())
        return [
            RoutedEvent(int(str(n)), float(str(at)), str(kind), str(service), str(content).encode())
            for n, at, kind, service, content in rows
        ]

    # Counting

    async def analytics(self, window_s: float, n_top: int = 10) -> EventAnalytics:
        """What happened in the last `window_s` seconds.

        Args:
            window_s: Seconds, above 0.
            n_top: How many types and services are named.
        """
        since = self._now() - window_s

        def counts(db: apsw.Connection) -> list[tuple[str, str, int, float]]:
            query = "SELECT type, service, count(*), max(at) FROM events WHERE at >= ? GROUP BY type, service"
            rows = db.execute(query, (since,)).fetchall()
            return [(str(kind), str(service), int(str(n)), float(str(at))) for kind, service, n, at in rows]

        rows = await self._database.read(counts)
        total = sum(n for _, _, n, _ in rows)
        lag = _samples(self._lag)
        return EventAnalytics(
            window_s=window_s,
            n_events=total,
            per_minute=60 * total / window_s,
            by_type=_top(((kind, n) for kind, _, n, _ in rows), n_top),
            by_service=_top(((service, n) for _, service, n, _ in rows), n_top),
            last_at=max((at for *_, at in rows), default=None),
            mean_lag_s=lag["_sum"] / lag["_count"] if lag["_count"] else None,
            n_waiting=len(self._waiting),
            n_lost=int(_samples(self._lost)["_total"]),
            n_subscribers=len(self._subscriptions) + len(self._handlers),
        )


@dataclass(frozen=True, slots=True)
class EventAnalytics:
    """What happened in a stretch of time.

    Args:
        window_s: Its length in seconds, up to now.
        n_events: Events in it.
        per_minute: Their rate.
        by_type: The most frequent types and their counts.
        by_service: The services with most events and their counts.
        last_at: When the last one was, seconds since the epoch; None without one.
        mean_lag_s: Seconds from publishing to delivery since the start, on average; None before the first.
        n_waiting: Events that are not stored yet.
        n_lost: Events that could not be stored since the start.
        n_subscribers: Who listens.
    """

    window_s: float
    n_events: int
    per_minute: float
    by_type: dict[str, int]
    by_service: dict[str, int]
    last_at: float | None
    mean_lag_s: float | None
    n_waiting: int
    n_lost: int
    n_subscribers: int


def _bounds(db: apsw.Connection) -> tuple[int, int]:
    """Numbers of the first event that is kept and of the last that ever was."""
    [(last,)] = db.execute("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)").fetchall()
    [(first,)] = db.execute("SELECT min(number) FROM events").fetchall()
    return (int(str(last)) + 1 if first is None else int(str(first))), int(str(last))


def _top(counts: Iterable[tuple[str, int]], n_top: int) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, n in counts:
        totals[name] = totals.get(name, 0) + n
    return dict(sorted(totals.items(), key=lambda each: (-each[1], each[0]))[:n_top])


def _samples(metric: Counter | Histogram) -> dict[str, float]:
    [family] = metric.collect()
    return {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
