"""Events: stored, then delivered, replayed without a gap, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture
from tests.conftest import Clock

from corsac.core.event_handlers import EventRouter
from corsac.core.logging_config import Logger
from corsac.core.storage.database import Database
from corsac.core.streams.event import Event
from corsac.core.streams.routed_event import RoutedEvent, Where


@pytest.fixture
async def database(tmp_path: Path, logger: Logger) -> AsyncIterator[Database]:
    database = Database(tmp_path / "corsac.sqlite", logger=logger)
    await database.open()
    yield database
    await database.close()


def router_on(database: Database, logger: Logger, clock: Clock, **limits: Any) -> EventRouter:
    return EventRouter(database, logger=logger, registry=CollectorRegistry(), now=clock, **limits)


@pytest.fixture
def router(database: Database, logger: Logger, clock: Clock) -> EventRouter:
    return router_on(database, logger, clock)


def data_of(events: list[RoutedEvent]) -> list[Any]:
    return [event.data for event in events]


async def some(events: AsyncIterator[Event], n: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(n)]


async def test_events_are_stored_and_numbered_in_order(router: EventRouter) -> None:
    for n in range(500):
        router.publish("count", "tts", {"n": n})
    await router.flush()
    stored = await router.replay(limit=1000)
    assert data_of(stored) == [{"n": n} for n in range(500)]
    assert [event.number for event in stored] == list(range(2, 502))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(), [1, 2, 3, 4]),
        (Where(types=frozenset({"a"})), [1, 3]),
        (Where(services=frozenset({"rag"})), [3, 4]),
        (Where(frozenset({"a", "b"}), frozenset({"tts"})), [1, 2]),
        (Where(since=1_000_002.0), [2, 3, 4]),
        (Where(since=1_000_002.0, until=1_000_004.0), [2, 3]),
        (Where(types=frozenset({"' OR 1 --"})), []),
    ],
)
async def test_a_filter_means_the_same_live_and_in_replay(
    router: EventRouter, clock: Clock, where: Where, expected: list[int]
) -> None:
    live: list[RoutedEvent] = []
    router.route(live.append, where)
    for n, (kind, service) in enumerate([("a", "tts"), ("b", "tts"), ("a", "rag"), ("b", "rag")], 1):
        clock.now = 1_000_000.0 + n
        router.publish(kind, service, n)
    await router.flush()
    assert data_of(live) == data_of(await router.replay(where)) == expected


async def test_a_handler_hears_of_an_event_once_it_is_stored(router: EventRouter) -> None:
    seen: list[bool] = []

    async def look(event: RoutedEvent) -> None:
        stored = await router.replay(after=event.number - 1)
        seen.append(stored[0] == event)

    router.route(look)
    router.publish("a", "tts")
    await router.flush()
    assert seen == [True]


async def test_a_handler_that_fails_is_logged_and_disturbs_nobody(router: EventRouter, log: LogCapture) -> None:
    def failing(_event: RoutedEvent) -> None:
        raise RuntimeError

    heard: list[RoutedEvent] = []
    router.route(failing)
    stop = router.route(heard.append)
    router.publish("a", "tts")
    await router.flush()
    stop()
    router.publish("b", "tts")
    await router.flush()
    assert [event.type for event in heard] == ["a"]
    assert [line["event"] for line in log.entries] == ["event handler failed"] * 2


async def test_a_subscription_changes_events_and_misses_the_oldest_when_it_is_slow(router: EventRouter) -> None:
    def odd(event: RoutedEvent) -> RoutedEvent | None:
        return event if event.data % 2 else None

    with router.subscribe(change=odd) as subscription:
        for n in range(1000):
            router.publish("count", "tts", n)
            if n % 100 == 0:
                await router.flush()
        await router.flush()
        first = await anext(aiter(subscription))
    assert (first.data, subscription.n_missed) == (489, 244)


# Following


async def test_following_continues_after_an_event_without_a_gap(router: EventRouter) -> None:
    for n in range(450):
        router.publish("count", "tts", n)
    await router.flush()
    following = router.follow(201)
    [ready, *seen] = await some(following, 251)
    for n in range(450, 460):
        router.publish("count", "tts", n)
    seen += await some(following, 10)
    await following.aclose()  # type: ignore[attr-defined]
    assert (ready.type, ready.id) == ("ready", 201)
    assert [event.id for event in seen] == list(range(202, 462))
    assert seen[-1].data == {"at": 1_000_000.0, "service": "tts", "data": 459}


async def test_following_from_now_begins_with_the_next_event(router: EventRouter) -> None:
    router.publish("old", "tts")
    await router.flush()
    following = router.follow(where=Where(types=frozenset({"new"})))
    [ready] = await some(following, 1)
    router.publish("other", "tts")
    router.publish("new", "tts")
    [event] = await some(following, 1)
    await following.aclose()  # type: ignore[attr-defined]
    assert (ready.id, event.type, event.id) == (2, "new", 4)


async def test_an_event_that_is_no_longer_kept_is_answered_with_a_reset(
    database: Database, logger: Logger, clock: Clock
) -> None:
    router = router_on(database, logger, clock, max_events=10)
    for n in range(100):
        router.publish("count", "tts", n)
    await router.flush()
    following = router.follow(5)
    [reset, first] = await some(following, 2)
    await following.aclose()  # type: ignore[attr-defined]
    assert (reset.type, reset.data["reason"], first.id) == ("reset", "EXPIRED", 92)
    assert reset.id == 91


async def test_old_events_go_and_their_numbers_are_not_given_again(
    database: Database, logger: Logger, clock: Clock
) -> None:
    router = router_on(database, logger, clock, max_age_s=60)
    router.publish("old", "tts")
    await router.flush()
    clock.now += 61
    router.publish("new", "tts")
    await router.flush()
    assert [(event.type, event.number) for event in await router.replay()] == [("new", 3)]


# Counting and limits


async def test_analytics_count_what_happened_in_the_window(router: EventRouter, clock: Clock) -> None:
    router.publish("old", "tts")
    await router.flush()
    clock.now += 1000
    for kind, service in [("a", "tts"), ("a", "rag"), ("b", "tts")]:
        router.publish(kind, service)
    clock.now += 0.5
    await router.flush()
    analytics = await router.analytics(60)
    assert (analytics.n_events, analytics.per_minute) == (3, 3)
    assert analytics.by_type == {"a": 2, "b": 1}
    assert analytics.by_service == {"tts": 2, "rag": 1}
    assert analytics.mean_lag_s == pytest.approx(1.5 / 4)


@pytest.mark.parametrize(("kind", "data"), [("Bad Type", 1), ("", 1), ("a" * 33, 1), ("big", "x" * 20_000)])
async def test_an_event_that_cannot_be_is_refused(router: EventRouter, kind: str, data: Any) -> None:
    with pytest.raises(ValueError, match="16 KiB"):
        router.publish(kind, "tts", data)


async def test_when_the_database_is_gone_events_are_lost_counted_and_logged(
    router: EventRouter, database: Database, log: LogCapture
) -> None:
    await database.close()
    for _ in range(1100):
        router.publish("a", "tts")
    await router.flush()
    assert {line["event"] for line in log.entries} == {"events lost"}
    assert router._lost._value.get() == 1100  # type: ignore[attr-defined]
