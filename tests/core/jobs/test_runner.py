"""Work that is handed out, fails, hangs, is cancelled, and is there again after a restart."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import LogCapture
from tests.conftest import Clock
from tests.core.jobs.conftest import caller, finished, made, until

from corsac.core.call import CURRENT_CALL
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import AlreadyRegistered, CircuitOpen, Conflict, EngineUnavailable, Invalid, StorageFailed
from corsac.core.jobs.job import MAX_ITEMS, BatchTooLarge, ItemResult, JobContext
from corsac.core.jobs.journal import SqliteJournal
from corsac.core.jobs.lane import MAX_OUTPUT_BYTES
from corsac.core.jobs.runner import JobRunner
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.storage.artifacts import ArtifactStore
from corsac.core.storage.database import Database
from corsac.core.storage.retention import Swept

SECRET = "the /secret/path of 10.0.0.1"


async def double(context: JobContext, item: dict[str, Any]) -> ItemResult:
    return ItemResult({"double": 2 * item["n"]})


def numbers(n: int) -> list[dict[str, int]]:
    return [{"n": each} for each in range(n)]


class Gate:
    """Work that waits until it is let through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.started: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, context: JobContext, item: dict[str, Any]) -> ItemResult:
        self.started.append(item["n"])
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(item["n"])
            raise
        return ItemResult(
            item,
            lambda db: db.execute("INSERT INTO made VALUES (?, ?, ?)", (context.job_id, context.n, context.attempt)),
        )


async def outputs(runner: JobRunner, job_id: str, who: str = "alice") -> list[Any]:
    items, _ = await runner.items(job_id, caller(who), limit=200)
    return [each.output or (each.error.reason if each.error else each.state) for each in items]


async def test_every_item_gets_its_result_as_its_owner(runner: JobRunner) -> None:
    seen = []

    async def look(context: JobContext, item: dict[str, Any]) -> ItemResult:
        call = context.call
        assert CURRENT_CALL.get() is call
        seen.append((call.principal.id, call.principal.key_id, call.principal.sees, 0 < call.remaining_s() <= 600))
        return await double(context, {"n": item["n"] + context.detail["more"]})

    runner.register("work", look, concurrency=2)
    job = await runner.submit("work", numbers(3), call=caller("alice", "admin"), detail={"more": 1})
    assert (job.state, job.n_items, job.owner, job.detail) == ("queued", 3, "alice", {"more": 1})
    assert (await finished(runner, job)).n_done == 3
    assert await outputs(runner, job.id) == [{"double": 2}, {"double": 4}, {"double": 6}]
    assert set(seen) == {("alice", "key-alice", "alice", True)}


@pytest.mark.parametrize(
    ("raised", "n_attempts", "reason"),
    [
        (RuntimeError(SECRET), 2, "INTERNAL_ERROR"),
        (SystemExit(1), 2, "INTERNAL_ERROR"),
        (asyncio.CancelledError(), 2, "INTERNAL_ERROR"),
        (TimeoutError(SECRET), 2, "DEADLINE_EXCEEDED"),
        (Invalid("The text is empty."), 1, "INVALID"),
        (EngineUnavailable(), 1, "ENGINE_UNAVAILABLE"),
    ],
)
async def test_what_work_raises_fails_its_item_and_nothing_else(
    runner: JobRunner, raised: BaseException, n_attempts: int, reason: str
) -> None:
    attempts = []

    async def fail_for_one(context: JobContext, item: dict[str, Any]) -> ItemResult:
        if item["n"] == 1:
            attempts.append(context.attempt)
            raise raised
        return await double(context, item)

    runner.register("work", fail_for_one)
    job = await finished(runner, await runner.submit("work", numbers(3), call=caller()))
    assert (job.state, job.n_done, job.n_failed, len(attempts)) == ("done", 2, 1, n_attempts)
    assert await outputs(runner, job.id) == [{"double": 0}, reason, {"double": 4}]
    assert SECRET not in str(await runner.items(job.id, caller()))


@pytest.mark.parametrize("output", [{"x": object()}, {"x": "y" * MAX_OUTPUT_BYTES}, {1: 2}])
async def test_an_output_that_cannot_be_kept_fails_its_item(runner: JobRunner, output: Any) -> None:
    async def wrong(context: JobContext, item: dict[str, Any]) -> ItemResult:
        return ItemResult(output)

    runner.register("work", wrong)
    assert (await finished(runner, await runner.submit("work", numbers(1), call=caller()))).state == "failed"


async def test_an_attempt_over_its_time_is_stopped(runner: JobRunner) -> None:
    gate = Gate()
    runner.register("work", gate, timeout_s=0.02, attempts=1)
    job = await finished(runner, await runner.submit("work", numbers(1), call=caller()))
    assert (await outputs(runner, job.id), gate.cancelled) == (["DEADLINE_EXCEEDED"], [0])


async def test_a_kind_waits_as_long_as_its_engine_asks_for(journal: SqliteJournal, logger: Logger) -> None:
    ticks, runs = Clock(), []
    runner = JobRunner(journal, ServiceErrorHandler("jobs", logger, Metrics()), monotonic=ticks)

    async def refuse_first(context: JobContext, item: dict[str, Any]) -> ItemResult:
        runs.append(context.n)
        if len(runs) == 1:
            raise CircuitOpen(retry_after_s=0.05)
        return await double(context, item)

    runner.register("work", refuse_first)
    await runner.start()
    job = await runner.submit("work", numbers(5), call=caller())
    await asyncio.sleep(0.03)
    assert runs == [0]
    ticks.now += 1
    assert (await finished(runner, job)).n_done == 5
    await runner.stop(0)


async def test_cancelling_stops_what_runs_within_a_second_and_what_waits_never_runs(runner: JobRunner) -> None:
    gate = Gate()
    runner.register("work", gate, concurrency=2)
    job = await runner.submit("work", numbers(5), call=caller())
    await until(lambda: len(gate.started) == 2)
    began = time.monotonic()
    assert (await runner.cancel(job.id, caller())).state == "cancelled"
    assert time.monotonic() - began < 1
    assert sorted(gate.cancelled) == [0, 1]
    gate.open.set()
    assert (await finished(runner, job)).n_cancelled == 5
    retried = await runner.retry(job.id, caller())
    assert (await finished(runner, retried)).n_done == 5


async def test_failed_items_are_retried_and_done_ones_are_not(runner: JobRunner) -> None:
    runs: list[int] = []

    async def once_broken(context: JobContext, item: dict[str, Any]) -> ItemResult:
        runs.append(item["n"])
        if item["n"] == 1 and len(runs) < 4:
            raise Invalid
        return await double(context, item)

    runner.register("work", once_broken)
    job = await finished(runner, await runner.submit("work", numbers(3), call=caller()))
    assert job.n_failed == 1
    job = await finished(runner, await runner.retry(job.id, caller()))
    assert (job.n_done, job.n_failed, runs) == (3, 0, [0, 1, 2, 1])
    with pytest.raises(Conflict):
        await runner.retry(job.id, caller())


async def test_no_more_run_at_a_time_than_the_kind_allows_and_interactive_ones_go_first(runner: JobRunner) -> None:
    gate, order, most = asyncio.Event(), [], 0

    async def count(context: JobContext, item: dict[str, Any]) -> ItemResult:
        nonlocal most
        order.append(item["n"])
        most = max(most, sum(1 for task in asyncio.all_tasks() if task.get_name().startswith("work ")))
        await gate.wait()
        return ItemResult({})

    runner.register("work", count, concurrency=2)
    batch = await runner.submit("work", numbers(5), call=caller())
    await until(lambda: len(order) == 2)
    urgent = await runner.submit("work", [{"n": 100}], call=caller(), priority="interactive")
    gate.set()
    await finished(runner, urgent)
    await finished(runner, batch)
    assert (most, order.index(100)) == (2, 2)


async def test_pausing_puts_the_running_item_back(runner: JobRunner) -> None:
    gate = Gate()
    runner.register("work", gate)
    job = await runner.submit("work", numbers(2), call=caller())
    await until(lambda: gate.started == [0])
    assert (await runner.pause(job.id, caller())).n_queued == 2
    assert gate.cancelled == [0]
    gate.open.set()
    await runner.resume(job.id, caller())
    assert (await finished(runner, job)).n_done == 2
    assert gate.started == [0, 0, 1]


async def test_a_stop_lets_finish_what_finishes_in_time_and_puts_the_rest_back(
    journal: SqliteJournal, logger: Logger, database: Database
) -> None:
    gate, slow = Gate(), Gate()
    errors = ServiceErrorHandler("jobs", logger, Metrics())
    runner = JobRunner(journal, errors)
    runner.register("quick", gate)
    runner.register("slow", slow)
    await runner.start()
    quick = await runner.submit("quick", numbers(2), call=caller())
    late = await runner.submit("slow", numbers(1), call=caller())
    await until(lambda: bool(gate.started and slow.started))
    stopping = asyncio.create_task(runner.stop(drain_s=0.2))
    await asyncio.sleep(0.05)
    gate.open.set()
    await stopping
    assert [(await runner.find(job.id, caller())).n_queued for job in (quick, late)] == [1, 1]
    assert (gate.started, slow.cancelled, await made(database)) == ([0], [0], [(0, 1)])
    [claim] = await journal.claim("slow", 1, "")
    assert (claim.attempt, claim.failures) == (2, 0)


async def test_a_new_runner_goes_on_with_what_the_last_one_left(journal: SqliteJournal, logger: Logger) -> None:
    left = JobRunner(journal, ServiceErrorHandler("jobs", logger, Metrics()))
    left.register("work", Gate())
    job = await left.submit("work", numbers(3), call=caller())
    await journal.claim("work", 2, "")  # two were running when the process died
    runner = JobRunner(journal, ServiceErrorHandler("jobs", logger, Metrics()))
    runner.register("work", double)
    await runner.start()
    assert (await finished(runner, job)).n_done == 3
    await runner.stop(0)


async def test_an_outcome_waits_for_the_disk(runner: JobRunner, journal: SqliteJournal, log: LogCapture) -> None:
    write, n_failures = journal.record, 0

    async def failing(*arguments: Any) -> None:
        nonlocal n_failures
        if (n_failures := n_failures + 1) == 1:
            await write(*arguments)  # it was stored, and nobody knows
            raise StorageFailed
        await write(*arguments)

    journal.record = failing  # type: ignore[method-assign]
    runner.register("work", double)
    job = await finished(runner, await runner.submit("work", numbers(2), call=caller()))
    assert (job.n_done, await outputs(runner, job.id)) == (2, [{"double": 0}, {"double": 2}])
    assert "an outcome was not stored yet" in [each["event"] for each in log.entries]


async def test_a_failing_journal_does_not_end_the_handing_out(
    runner: JobRunner, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corsac.core.jobs.lane.STORE_AGAIN_S", (0.01,))
    claim, fail = journal.claim, True

    async def failing(*arguments: Any) -> Any:
        nonlocal fail
        if fail:
            fail = False
            raise StorageFailed
        return await claim(*arguments)

    journal.claim = failing  # type: ignore[method-assign]
    runner.register("work", double)
    job = await runner.submit("work", numbers(1), call=caller())
    assert (await finished(runner, job)).n_done == 1


@pytest.mark.parametrize(("n_items", "error"), [(MAX_ITEMS + 1, BatchTooLarge), (0, ValueError)])
async def test_a_job_has_one_to_ten_thousand_items(runner: JobRunner, n_items: int, error: type[Exception]) -> None:
    runner.register("work", double)
    with pytest.raises(error):
        await runner.submit("work", numbers(n_items), call=caller())
    assert (await runner.list(caller()))[0] == []


async def test_a_kind_has_one_work(runner: JobRunner) -> None:
    runner.register("work", double)
    with pytest.raises(AlreadyRegistered):
        runner.register("work", double)


async def test_old_jobs_are_swept(runner: JobRunner, clock: Clock) -> None:
    runner.register("work", double)
    await finished(runner, await runner.submit("work", numbers(1), call=caller()))
    clock.now += 6.9 * 86_400
    assert await runner.sweep() == 0
    clock.now += 0.2 * 86_400
    assert await runner.sweep() == 1


async def test_an_artifact_of_an_item_is_there_with_its_result_or_not_at_all(
    runner: JobRunner, database: Database, tmp_path: Path, logger: Logger
) -> None:
    store = ArtifactStore(tmp_path / "files", database, logger=logger)
    (tmp_path / "files").mkdir()

    async def make(context: JobContext, item: dict[str, Any]) -> ItemResult:
        wav = {"media_type": "audio/wav", "suffix": ".wav"}
        prepared = await store.prepare("audio", b"sound", owner=context.call.principal.id, detail={}, **wav)
        assert await store.sweep() == Swept(0, 0, 0)  # not yet an orphan
        if item["n"]:
            raise Invalid
        return ItemResult({"id": prepared.artifact.id}, prepared)

    runner.register("work", make)
    job = await finished(runner, await runner.submit("work", numbers(2), call=caller()))
    [output, failed] = await outputs(runner, job.id)
    assert (await store.get("audio", output["id"], "alice")).path.read_bytes() == b"sound"
    assert failed == "INVALID"
    assert await store.sweep() == Swept(n_files=1, n_rows=0, n_expired=0)


async def test_progress_is_told_at_most_twice_a_second(runner: JobRunner) -> None:
    async def tell(context: JobContext, item: dict[str, Any]) -> ItemResult:
        for tenth in range(11):
            await context.progress(tenth / 10, "synthesizing")
        return ItemResult({})

    runner.register("work", tell)
    job = await runner.submit("work", numbers(1), call=caller())
    told = [each async for each in runner.events(job.id, caller()) if each.type == "progress"]
    assert [each.data for each in told] == [{"n": 0, "fraction": 0.0, "note": "synthesizing"}]
    json.dumps(told[0].data)
