"""A job's stream: everything in order, from the beginning or behind any event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.core.jobs.conftest import caller, finished, until

from corsac.core.exceptions import NotFound
from corsac.core.jobs.job import ItemResult, JobContext
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.runner import JobRunner
from corsac.core.metrics import Metrics
from corsac.core.streams.event import Event
from corsac.core.streams.hub import StreamHub


async def work(context: JobContext, item: dict[str, Any]) -> ItemResult:
    await asyncio.sleep(0)
    return ItemResult({"n": item["n"]})


async def read(runner: JobRunner, job_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
    events = []
    async for event in runner.events(job_id, caller(), after):
        events.append(event)
        if len(events) == limit:
            break
    return events


async def test_it_tells_every_item_with_its_output_and_ends_with_the_job(runner: JobRunner) -> None:
    runner.register("work", work, concurrency=3)
    job = await runner.submit("work", [{"n": n} for n in range(120)], call=caller())
    async with asyncio.timeout(10):
        events = await read(runner, job.id)
    assert [each.type for each in events] == ["snapshot", *["item"] * 120, "snapshot"]
    assert sorted(each.data["output"]["n"] for each in events[1:-1]) == list(range(120))
    assert [each.data["n_done"] for each in events[1:-1]] == list(range(1, 121))
    assert (events[0].data["state"], events[-1].data["state"]) == ("queued", "done")


async def test_it_goes_on_behind_any_event_without_gap_or_repetition(runner: JobRunner) -> None:
    runner.register("work", work)
    job = await runner.submit("work", [{"n": n} for n in range(20)], call=caller())
    received: list[Event] = []
    while not received or received[-1].data.get("finished_at") is None:
        after = received[-1].id if received else 0
        part = await read(runner, job.id, after, limit=4)
        assert not after or (part[0].type, part[0].id) == ("snapshot", after)
        received += part[1:] if after else part
    assert [(each.type, each.id) for each in received] == [(each.type, each.id) for each in await read(runner, job.id)]


@pytest.mark.parametrize("after_stream_end", [False, True])
async def test_whoever_waits_hears_of_a_retry(runner: JobRunner, after_stream_end: bool) -> None:
    runner.register("work", work)
    job = await runner.submit("work", [{"n": 0}], call=caller())
    await runner.cancel(job.id, caller())
    last = (await read(runner, job.id))[-1].id + after_stream_end  # a stream gives its own `done` the next id
    await finished(runner, await runner.retry(job.id, caller()))
    states = [each.data["state"] for each in (await read(runner, job.id, last))[1:]]
    assert states == ["queued", "done", "done"]


async def test_the_ids_that_a_stream_adds_are_never_those_of_the_journal(runner: JobRunner, logger: Any) -> None:
    runner.register("work", work)
    job = await runner.submit("work", [{"n": 0}], call=caller())
    hub = StreamHub(logger, Metrics())
    stream = await hub.open(runner.events(job.id, caller()), caller())
    first = [each async for each in stream.read()]
    assert (first[-1].type, first[-1].id % 2, [each.id % 2 for each in first[:-1]]) == ("done", 1, [0, 0, 0])
    again = await hub.open(runner.events(job.id, caller(), first[-1].id), caller())
    assert [(each.type, each.id) async for each in again.read()] == [("snapshot", 6), ("done", 7)]
    await hub.close()


async def test_anothers_job_has_no_stream(runner: JobRunner) -> None:
    runner.register("work", work)
    job = await runner.submit("work", [{"n": 0}], call=caller("bob"))
    for after in (0, 5):
        with pytest.raises(NotFound):
            await read(runner, job.id, after)


async def test_a_follower_that_leaves_is_forgotten(runner: JobRunner, journal: SqliteJournal) -> None:
    gate = asyncio.Event()

    async def wait(context: JobContext, item: dict[str, Any]) -> ItemResult:
        await gate.wait()
        return ItemResult({})

    runner.register("work", wait)
    job = await runner.submit("work", [{"n": 0}], call=caller())
    reading = asyncio.create_task(read(runner, job.id))
    await until(lambda: bool(runner.changes._waiting))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert not runner.changes._waiting
    gate.set()
