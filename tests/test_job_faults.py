"""Jobs whose process is killed, stopped and continued: nothing is lost and nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from corsac.core.jobs.job import Job, NewJob
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.progress import Changes, follow
from corsac.core.storage.artifacts import ArtifactStore
from corsac.core.storage.database import Database
from corsac.core.storage.retention import Swept

HERE = Path(__file__).parent.parent
N_ITEMS = 40
UP_AGAIN_S = 5.0


def worker(folder: Path, failpoint: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE / "src"), str(HERE)])}
    command = [sys.executable, "-m", "tests.core.jobs.working", str(folder), failpoint]
    return subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True)


async def opened(folder: Path) -> Database:
    database = Database(folder / "corsac.sqlite", logger=CapturingLogger())
    await database.open()
    return database


def assert_up_in_time(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    began = time.monotonic()
    assert process.stdout.readline() == "started\n"
    assert time.monotonic() - began < UP_AGAIN_S


async def submitted(folder: Path, n_items: int = N_ITEMS) -> Job:
    """A job of `n_items`, stored by a process that then ended."""
    (folder / "files").mkdir()
    database = await opened(folder)
    await database.write(lambda db: db.execute("CREATE TABLE made(job TEXT, n INTEGER, attempt INTEGER)").fetchall())
    new = NewJob("work", "alice", "key", "batch", [f'{{"n":{n}}}' for n in range(n_items)])
    job = await SqliteJournal(database).submit(new)
    await database.close()
    return job


async def nothing_is_lost_or_double(folder: Path, job: Job) -> list[int]:
    """Checks it, and returns the attempt of each item."""
    database = await opened(folder)
    try:
        journal = SqliteJournal(database)
        done = await journal.find(job.id, "alice")
        assert (done.state, done.n_done, done.n_queued, done.n_running) == ("done", job.n_items, 0, 0)
        items, _ = await journal.items(job.id, "alice", state="done", limit=1000, cursor="")
        outputs: list[Any] = [each.output for each in items]
        rows = await database.read(lambda db: db.execute("SELECT n, attempt FROM made ORDER BY n").fetchall())
        assert rows == [(n, output["attempt"]) for n, output in enumerate(outputs)]
        store = ArtifactStore(folder / "files", database, logger=CapturingLogger())
        assert await store.sweep() == Swept(0, 0, 0)
        kept, _ = await store.list("audio", "alice", limit=1000)
        assert {each.id for each in kept} == {output["artifact"] for output in outputs}
        assert len(kept) == job.n_items
        for n, output in enumerate(outputs):
            artifact = await store.get("audio", output["artifact"], "alice")
            assert artifact.path.read_text() == f"{job.id} {n}"
        assert await database.read(lambda db: db.pragma("integrity_check")) == "ok"
        _, events = await journal.events(job.id, None, 0, 10_000)
        told = [each.data["n"] for each in events if each.type == "item" and each.data["state"] == "done"]
        assert sorted(told) == list(range(job.n_items))
        return [each.attempt for each in items]
    finally:
        await database.close()


@pytest.mark.parametrize("n_kills", [5, pytest.param(20, marks=pytest.mark.slow)])
async def test_after_any_kill_the_job_goes_on_and_every_item_has_one_result(tmp_path: Path, n_kills: int) -> None:
    job = await submitted(tmp_path)
    for kill in range(n_kills):
        process = worker(tmp_path)
        if kill % 3:  # else also while it opens the database, sweeps and requeues
            assert_up_in_time(process)
        time.sleep(random.uniform(0, 0.5 / n_kills if kill % 3 else 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    process = worker(tmp_path)
    assert_up_in_time(process)
    process.communicate(timeout=60)
    assert process.returncode == 0
    await nothing_is_lost_or_double(tmp_path, job)


async def test_the_first_result_after_a_kill_comes_within_five_seconds(tmp_path: Path) -> None:
    job = await submitted(tmp_path)
    process = worker(tmp_path)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("done"):
        pass
    process.kill()
    process.wait()
    before = await done_so_far(tmp_path, job)
    assert 0 < before < N_ITEMS
    began = time.monotonic()
    process = worker(tmp_path)
    assert process.stdout is not None
    while (line := process.stdout.readline()).startswith(("started", "done")):
        if line.startswith("done") and (before := before - 1) < 0:
            break
    assert time.monotonic() - began < UP_AGAIN_S
    process.stdout.read()
    assert process.wait(60) == 0
    await nothing_is_lost_or_double(tmp_path, job)


async def done_so_far(folder: Path, job: Job) -> int:
    database = await opened(folder)
    found = await SqliteJournal(database).find(job.id, None)
    await database.close()
    return found.n_done


async def test_an_item_that_was_done_and_not_recorded_is_done_once_more(tmp_path: Path) -> None:
    job = await submitted(tmp_path, n_items=3)
    process = worker(tmp_path, "die-before-recording")
    assert process.wait(30) == -signal.SIGKILL
    files = list((tmp_path / "files" / "audio").iterdir())
    assert files  # its file is there, and nothing names it
    process = worker(tmp_path)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not [path for path in files if path.exists()]
    attempts = await nothing_is_lost_or_double(tmp_path, job)
    assert max(attempts) == 2


async def test_a_process_that_was_suspended_records_each_result_once(tmp_path: Path) -> None:
    job = await submitted(tmp_path, n_items=20)
    process = worker(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert max(await nothing_is_lost_or_double(tmp_path, job)) == 1


async def test_a_stream_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    job = await submitted(tmp_path)
    received: list[int] = []
    for turn in range(3):
        process = worker(tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        if turn < 2:
            process.kill()
        process.communicate(timeout=30)
        database = await opened(tmp_path)
        after = received[-1] if received else 0
        try:
            async with asyncio.timeout(1):
                async for event in follow(SqliteJournal(database), Changes(), job.id, "alice", after):
                    received += [event.id] if event.id != after else []
        except TimeoutError:
            assert turn < 2
        await database.close()
    assert received == list(range(2, 2 * len(received) + 1, 2))
    await nothing_is_lost_or_double(tmp_path, job)
