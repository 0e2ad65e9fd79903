"""A journal on a real database, and a runner on it whose work the tests choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.conftest import Clock

from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.identity import Principal
from corsac.core.jobs.job import Job, NewJob, Priority
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.runner import JobRunner
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.storage.database import Database


@pytest.fixture
async def database(tmp_path: Path, logger: Logger) -> AsyncIterator[Database]:
    database = Database(tmp_path / "corsac.sqlite", logger=logger, probe_s=0.05)
    await database.open()
    await database.write(lambda db: db.execute("CREATE TABLE made(job TEXT, n INTEGER, attempt INTEGER)").fetchall())
    yield database
    await database.close()


@pytest.fixture
def journal(database: Database, clock: Clock) -> SqliteJournal:
    return SqliteJournal(database, now=clock)


@pytest.fixture
async def runner(journal: SqliteJournal, logger: Logger, clock: Clock) -> AsyncIterator[JobRunner]:
    runner = JobRunner(journal, ServiceErrorHandler("jobs", logger, Metrics()), now=clock)
    await runner.start()
    yield runner
    await runner.stop(drain_s=0)


def caller(name: str = "alice", *scopes: str) -> Call:
    return Call("a-request", Principal(name, f"key-{name}", frozenset(scopes or {"any"})))


def new_job(n_items: int = 3, *, owner: str = "alice", priority: Priority = "batch") -> NewJob:
    return NewJob("work", owner, f"key-{owner}", priority, [f'{{"n":{n}}}' for n in range(n_items)])


async def made(database: Database) -> list[tuple[int, int]]:
    """Numbers and attempts of the items that have written a row."""
    rows = await database.read(lambda db: db.execute("SELECT n, attempt FROM made ORDER BY n").fetchall())
    return [(int(str(n)), int(str(attempt))) for n, attempt in rows]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def finished(runner: JobRunner, job: Job, call: Call | None = None) -> Job:
    """The job once it has finished."""
    call = call or caller(job.owner)
    async with asyncio.timeout(5):
        async for _ in runner.events(job.id, call):
            pass
    return await runner.find(job.id, call)
