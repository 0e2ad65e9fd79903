"""The journal: items a second from claimed to recorded, one at a time and many at a time.

Each item is claimed and its result recorded with a row of its own, both durably. Prints, for one item at a time and for
20 and 100, the items a second, and beside it how often the disk commits an empty transaction, which bounds the first.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.jobs.job import ItemResult, JobContext
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.runner import JobRunner
from corsac.core.metrics import Metrics
from corsac.core.storage.database import Database

ROUNDS = 3
RUNS = ((1, 500), (20, 4000), (100, 8000))
COMMITS = 500


async def work(context: JobContext, item: dict[str, Any]) -> ItemResult:
    row = (context.job_id, context.n)
    return ItemResult({"n": item["n"]}, lambda db: db.execute("INSERT INTO made VALUES (?, ?)", row))


async def items_per_second(database: Database, concurrency: int, n_items: int) -> float:
    logger = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50))
    runner = JobRunner(SqliteJournal(database), ServiceErrorHandler("jobs", logger, Metrics()))
    runner.register("work", work, concurrency=concurrency)
    call = Call.local()
    job = await runner.submit("work", [{"n": n} for n in range(n_items)], call=call)
    began = time.perf_counter()
    await runner.start()
    while not (await runner.find(job.id, call)).finished:
        await asyncio.sleep(0.01)
    took_s = time.perf_counter() - began
    await runner.stop()
    return n_items / took_s


async def commits_per_second(database: Database) -> float:
    began = time.perf_counter()
    for n in range(COMMITS):
        await database.write(lambda db, n=n: db.execute("INSERT INTO made VALUES ('', ?)", (n,)).fetchall())
    return COMMITS / (time.perf_counter() - began)


async def measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "corsac.sqlite", logger=structlog.wrap_logger(structlog.ReturnLogger()))
        await database.open()
        await database.write(lambda db: db.execute("CREATE TABLE made(job TEXT, n INTEGER)").fetchall())
        commits = statistics.median([await commits_per_second(database) for _ in range(ROUNDS)])
        print(f"durable commits, one at a time: {commits:.0f}/s")
        for concurrency, n_items in RUNS:
            rates = [await items_per_second(database, concurrency, n_items) for _ in range(ROUNDS)]
            print(
                f"{concurrency:3} at a time: {statistics.median(rates):6.0f} items/s"
                f" ({min(rates):.0f} to {max(rates):.0f}), {statistics.median(rates) / commits:.2f} items a lone commit"
            )
        await database.close()


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
