"""A process to be killed: it goes on with the jobs of a data directory until all of them have finished.

Each item writes a file and a row. `die-before-recording` kills the process, once, when an item's work is done and its
result not yet recorded.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import structlog

from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.jobs.job import Claim, ItemResult, JobContext
from corsac.core.jobs.journal import Rows, SqliteJournal
from corsac.core.jobs.runner import JobRunner
from corsac.core.metrics import Metrics
from corsac.core.storage.artifacts import ArtifactStore
from corsac.core.storage.database import Database

CONCURRENCY = 3


class DyingJournal(SqliteJournal):
    """Ends the process instead of recording the first result."""

    async def record(self, claim: Claim, output: str, rows: Rows | None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def work_on(folder: Path, failpoint: str) -> None:
    logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
    database = Database(folder / "corsac.sqlite", logger=logger)
    await database.open()
    store = ArtifactStore(folder / "files", database, logger=logger)
    await store.sweep()

    async def make(context: JobContext, item: dict[str, Any]) -> ItemResult:
        content = f"{context.job_id} {context.n}".encode()
        await asyncio.sleep(random.uniform(0.005, 0.03))
        prepared = await store.prepare(
            "audio", content, owner=context.call.principal.id, media_type="audio/wav", suffix=".wav", detail=item
        )
        await asyncio.sleep(random.uniform(0, 0.01))

        def rows(db: Any) -> None:
            prepared(db)
            db.execute("INSERT INTO made VALUES (?, ?, ?)", (context.job_id, context.n, context.attempt))

        return ItemResult({"artifact": prepared.artifact.id, "attempt": context.attempt}, rows)

    journal = (DyingJournal if failpoint == "die-before-recording" else SqliteJournal)(database)
    runner = JobRunner(journal, ServiceErrorHandler("jobs", logger, Metrics()))
    runner.register("work", make, concurrency=CONCURRENCY)
    await runner.start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    jobs, _ = await runner.list(Call.local())
    for job in jobs:
        async for event in runner.events(job.id, Call.local()):
            if event.type == "item" and event.data["state"] == "done":
                sys.stdout.write(f"done {event.data['n']}\n")
                sys.stdout.flush()
    await runner.stop()
    await database.close()


if __name__ == "__main__":
    asyncio.run(work_on(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
