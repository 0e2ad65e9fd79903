"""Who owns a stream, how it ends, and what a reader gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import LogCapture
from tests.core.streams.conftest import Producer, call_of, metric

from corsac.core.call import Call
from corsac.core.exceptions import Conflict, InternalError, NotFound, ShuttingDown
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.streams.event import Event, TooManyStreams
from corsac.core.streams.hub import StreamHub
from corsac.core.streams.ring import RingLimits
from corsac.core.streams.stream import Stream, StreamLimits


async def all_of(stream: Stream, after: int = 0) -> list[Event]:
    return [event async for event in stream.read(after)]


def numbers(events: list[Event]) -> list[int]:
    return [event.data["n"] for event in events if event.type == "number"]


async def test_events_are_numbered_and_end_with_done(hub: StreamHub, call: Call) -> None:
    events = await all_of(await hub.open(aiter(Producer(3)), call))
    assert [(event.id, event.type) for event in events] == [(1, "number"), (2, "number"), (3, "number"), (4, "done")]
    assert events[-1].data == {"n_events": 3}


async def test_a_journals_own_numbers_are_kept(hub: StreamHub, call: Call) -> None:
    async def journal() -> AsyncIterator[Event]:
        yield Event("a", {}, 40)
        yield Event("b", {}, 57)

    stream = await hub.open(journal(), call, resume_s=5)
    assert [event.id for event in await all_of(stream)] == [40, 57, 58]
    assert [event.id for event in await all_of(stream, 50)] == [57, 58]


# Failures


@pytest.mark.parametrize(("error", "expected"), [(Conflict(), Conflict), (RuntimeError("secret"), InternalError)])
async def test_an_early_failure_is_raised_and_leaves_nothing(
    hub: StreamHub, call: Call, error: Exception, expected: type[Exception], metrics: Metrics
) -> None:
    producer = Producer(0, error=error)
    with pytest.raises(expected):
        await hub.open(aiter(producer), call)
    assert (len(hub), producer.closed.is_set()) == (0, True)
    labels = {"service": "echo", "operation": "count", "reason": expected.reason}  # type: ignore[attr-defined]
    assert metric(metrics, "corsac_errors_total", **labels) == 1


@pytest.mark.parametrize(("error", "reason"), [(Conflict(), "CONFLICT"), (RuntimeError("secret"), "INTERNAL_ERROR")])
async def test_a_late_failure_is_one_error_event_in_problem_form(
    hub: StreamHub, call: Call, error: Exception, reason: str, log: LogCapture
) -> None:
    events = await all_of(await hub.open(aiter(Producer(2, error=error)), call))
    assert [event.type for event in events] == ["number", "number", "error"]
    problem = events[-1].data
    assert (problem["reason"], problem["request_id"], problem["service"]) == (reason, "4b0c5f3c", "echo")
    assert "secret" not in str(problem)
    assert bool(log.entries) == (reason == "INTERNAL_ERROR")


@pytest.mark.parametrize(
    "event", [Event("done"), Event("error"), Event("shutdown"), Event("Bad Type"), Event("a", "x" * (1 << 21))]
)
async def test_a_producer_cannot_forge_an_end_or_a_field(hub: StreamHub, call: Call, event: Event) -> None:
    async def forger() -> AsyncIterator[Event]:
        yield Event("number", {"n": 1})
        yield event

    events = await all_of(await hub.open(forger(), call))
    assert [each.type for each in events] == ["number", "error"]


async def test_past_its_deadline_a_stream_ends_with_an_error(hub: StreamHub, call: Call) -> None:
    producer = Producer(10**9, pause_s=0.01)
    events = await all_of(await hub.open(aiter(producer), call, deadline_s=0.1))
    assert (events[-1].type, events[-1].data["reason"]) == ("error", "DEADLINE_EXCEEDED")
    assert producer.closed.is_set()


# Leaving and coming back


async def leave_after(stream: Stream, n: int, after: int = 0) -> list[Event]:
    seen: list[Event] = []
    async with asyncio.timeout(5):
        reading = stream.read(after)
        async for event in reading:
            seen.append(event)
            if len(seen) == n:
                break
        await reading.aclose()  # type: ignore[attr-defined]
    return seen


async def test_without_the_wish_leaving_ends_the_producer(hub: StreamHub, call: Call) -> None:
    producer = Producer(10**9, pause_s=0.001)
    stream = await hub.open(aiter(producer), call)
    await leave_after(stream, 3)
    async with asyncio.timeout(1):
        await producer.closed.wait()
    with pytest.raises(NotFound):
        hub.find(stream.id, call)


async def test_with_the_wish_it_goes_on_and_continues_without_gap_or_duplicate(
    hub: StreamHub, call: Call, metrics: Metrics
) -> None:
    stream = await hub.open(aiter(Producer(300, pause_s=0.0)), call, resume_s=5)
    seen: list[Event] = []
    while not seen or seen[-1].type != "done":
        seen += await leave_after(hub.find(stream.id, call), 7, after=seen[-1].id if seen else 0)
    assert numbers(seen) == list(range(1, 301))
    assert metric(metrics, "corsac_streams_detached", service="echo") == 1


async def test_it_goes_on_no_longer_than_asked(hub: StreamHub, call: Call, metrics: Metrics) -> None:
    producer = Producer(10**9, pause_s=0.001)
    stream = await hub.open(aiter(producer), call, resume_s=0.1)
    await leave_after(stream, 1)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(2):
        await producer.closed.wait()
    assert 0.05 < asyncio.get_running_loop().time() - began < 1
    assert (len(hub), metric(metrics, "corsac_streams_open", service="echo")) == (0, 0)
    assert metric(metrics, "corsac_streams_detached", service="echo") == 0


async def test_a_producer_without_a_reader_runs_half_a_ring_ahead_and_waits(hub: StreamHub, call: Call) -> None:
    producer = Producer(5000)
    stream = await hub.open(aiter(producer), call, resume_s=5)
    [*first] = await leave_after(stream, 10)
    n_made = 0
    while n_made != producer.n_made:  # until it stands still
        n_made = producer.n_made
        await asyncio.sleep(0.05)
    assert 1000 <= producer.n_made <= 1300
    assert numbers(first + await all_of(stream, 10)) == list(range(1, 5001))


async def test_a_resumed_stream_that_lost_events_says_so(logger: Logger, call: Call) -> None:
    hub = StreamHub(logger, Metrics(), limits=StreamLimits(RingLimits(events=10)))
    stream = await hub.open(aiter(Producer(50)), call, resume_s=5)
    await leave_after(stream, 50)
    old, future = await all_of(stream, 5), await all_of(stream, 999)
    assert [(events[0].type, events[0].data["reason"]) for events in (old, future)] == [
        ("reset", "EXPIRED"),
        ("reset", "UNKNOWN_ID"),
    ]
    for events in (old, future):  # and then all that is left, to the end
        assert [event.id for event in events[1:]] == list(range(events[1].id, 52))
        assert len(events) in (11, 12)
    await hub.close()


async def test_a_stream_is_found_by_its_owner_alone(hub: StreamHub, call: Call) -> None:
    stream = await hub.open(aiter(Producer(3)), call, resume_s=5)
    assert hub.find(stream.id, call_of("alice")) is stream
    for stranger, stream_id in (("bob", stream.id), ("alice", stream.id[:-1] + "x"), ("alice", "")):
        with pytest.raises(NotFound):
            hub.find(stream_id, call_of(stranger))


@pytest.mark.parametrize(
    ("stream_id", "expected"), [("0123abcd-" + "0" * 24, False), ("ffffffff-" + "0" * 24, True), ("0" * 32, False)]
)
async def test_ids_of_an_earlier_start_are_known_as_such(hub: StreamHub, stream_id: str, expected: bool) -> None:
    assert hub.is_of_another_start(stream_id) is expected


# Greed


async def test_a_producer_that_never_awaits_lets_others_run_and_can_be_stopped(hub: StreamHub, call: Call) -> None:
    flood = Producer(10**9)
    stream = await hub.open(aiter(flood), call)
    reading = asyncio.create_task(all_of(stream))
    lags = []
    for _ in range(20):
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        lags.append(asyncio.get_running_loop().time() - began - 0.01)
    reading.cancel()
    await asyncio.wait_for(flood.closed.wait(), 1)
    assert sorted(lags)[10] < 0.02


async def test_the_producer_of_a_lossless_stream_waits_for_its_slowest_reader(hub: StreamHub, call: Call) -> None:
    producer = Producer(1000)
    stream = await hub.open(aiter(producer), call)
    with stream.attach() as slow:
        await asyncio.sleep(0.05)
        assert producer.n_made == 256
        seen = [record.id for record in slow.take()]
        while not slow.finished:
            seen += [record.id for record in await slow.next()]
    assert seen == list(range(1, 1002))


@pytest.mark.parametrize(("lossless", "most"), [(True, 17), (False, 17)])
async def test_what_waits_for_a_reader_is_bounded_in_bytes(
    hub: StreamHub, call: Call, lossless: bool, most: int
) -> None:
    async def large() -> AsyncIterator[Event]:
        for _ in range(200):
            yield Event("blob", "x" * 65_000)

    stream = await hub.open(large(), call, lossless=lossless)
    with stream.attach():
        await asyncio.sleep(0.1)
        assert 10 < len(stream.ring) <= most


async def test_a_slow_reader_of_a_lossy_stream_misses_the_oldest_and_they_are_counted(
    hub: StreamHub, call: Call, metrics: Metrics
) -> None:
    stream = await hub.open(aiter(Producer(1000)), call, lossless=False)
    with stream.attach() as slow:
        await asyncio.sleep(0.1)
        seen = [record.id for record in slow.take()]
    assert seen == list(range(746, 1002))
    assert metric(metrics, "corsac_stream_dropped_total", service="echo") == 745


async def test_finished_streams_make_place_and_running_ones_do_not(logger: Logger, call: Call) -> None:
    hub = StreamHub(logger, Metrics(), max_streams=2)
    await all_of(await hub.open(aiter(Producer(1)), call, resume_s=30))
    for _ in range(2):
        await hub.open(endless(), call)
    with pytest.raises(TooManyStreams):
        await hub.open(endless(), call)
    await hub.close()


async def endless() -> AsyncIterator[Event]:
    yield Event("number", {"n": 1})
    await asyncio.sleep(3600)


# The end


async def test_at_shutdown_every_stream_says_where_it_ends(hub: StreamHub, call: Call) -> None:
    stream = await hub.open(endless(), call, resume_s=5)
    reading = asyncio.create_task(all_of(stream))
    await asyncio.sleep(0)
    hub.shut_down()
    [_, last] = await asyncio.wait_for(reading, 1)
    expected: dict[str, Any] = {"stream": stream.id, "location": f"/api/streams/{stream.id}", "last_event_id": 1}
    assert (last.type, last.data | expected) == ("shutdown", last.data)
    with pytest.raises(ShuttingDown):
        await hub.open(endless(), call)


async def test_closing_waits_for_what_producers_have_to_put_away(logger: Logger, call: Call) -> None:
    put_away = asyncio.Event()

    async def careful() -> AsyncIterator[Event]:
        try:
            yield Event("number", {"n": 1})
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            put_away.set()

    hub = StreamHub(logger, Metrics())
    await hub.open(careful(), call)
    await hub.close()
    assert put_away.is_set()


async def test_a_client_that_leaves_before_the_first_event_ends_the_producer(hub: StreamHub, call: Call) -> None:
    producer = Producer(1, pause_s=60)
    opening = asyncio.create_task(hub.open(aiter(producer), call, resume_s=30))
    await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.wait_for(producer.closed.wait(), 1)
    assert len(hub) == 0


async def test_pace_and_events_are_measured_by_service(hub: StreamHub, call: Call, metrics: Metrics) -> None:
    await all_of(await hub.open(aiter(Producer(20, pause_s=0.002)), call))
    exposed = metrics.exposition().decode()
    assert 'corsac_stream_events_total{service="echo"} 21.0' in exposed
    assert 'corsac_stream_gap_seconds_count{service="echo"} 20.0' in exposed
    assert 'corsac_stream_gap_quantile_seconds{quantile="0.5",service="echo"} 0.0025' in exposed or "0.005" in exposed
    assert metric(metrics, "corsac_stream_first_event_seconds_count", service="echo") == 1
