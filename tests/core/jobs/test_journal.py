"""What the journal promises: one recorded result an item, and nothing of it without the rest."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import apsw
import pytest
from tests.conftest import Clock
from tests.core.jobs.conftest import made, new_job

from corsac.core.exceptions import Conflict, InternalError, Invalid, InvalidCursor, NotFound
from corsac.core.jobs import statements
from corsac.core.jobs.entries import SLICE_ITEMS
from corsac.core.jobs.job import Claim, ItemProblem, NewJob, StaleAttempt
from corsac.core.jobs.journal import MAX_INTERRUPTIONS, SqliteJournal
from corsac.core.storage.database import Database

PROBLEM = ItemProblem.of(InternalError())


def row_of(claim: Claim) -> Any:
    return lambda db: db.execute("INSERT INTO made VALUES (?, ?, ?)", (claim.job_id, claim.n, claim.attempt)).fetchall()


async def record(journal: SqliteJournal, claim: Claim) -> None:
    await journal.record(claim, '{"said":"yes"}', row_of(claim))


async def claim_one(journal: SqliteJournal, after: str = "") -> Claim:
    [claim] = await journal.claim("work", 1, after)
    return claim


async def events(journal: SqliteJournal, job_id: str) -> list[Any]:
    _, found = await journal.events(job_id, None, 0, 1000)
    assert [each.id for each in found] == list(range(1, len(found) + 1))
    return [(each.type, each.data.get("n"), each.data.get("state")) for each in found]


async def test_a_result_and_its_rows_are_there_together(journal: SqliteJournal, database: Database) -> None:
    job = await journal.submit(new_job(1))
    claim = await claim_one(journal)
    assert (claim.job_id, claim.n, claim.attempt, claim.input) == (job.id, 0, 1, {"n": 0})
    await record(journal, claim)
    [[item], _] = await journal.items(job.id, "alice", state=None, limit=5, cursor="")
    assert (item.state, item.output, await made(database)) == ("done", {"said": "yes"}, [(0, 1)])
    done = await journal.find(job.id, "alice")
    assert (done.state, done.n_done, done.n_queued, done.n_running) == ("done", 1, 0, 0)
    assert await events(journal, job.id) == [
        ("snapshot", None, "queued"),
        ("item", 0, "done"),
        ("snapshot", None, "done"),
    ]


async def test_rows_that_fail_take_the_result_along(journal: SqliteJournal, database: Database) -> None:
    job = await journal.submit(new_job(1))
    claim = await claim_one(journal)

    def rows(db: apsw.Connection) -> None:
        row_of(claim)(db)
        db.execute("INSERT INTO no_such_table VALUES (1)")

    with pytest.raises(apsw.SQLError):
        await journal.record(claim, "{}", rows)
    assert await made(database) == []
    assert (await journal.find(job.id, None)).n_running == 1
    await record(journal, claim)
    assert await made(database) == [(0, 1)]


@pytest.mark.parametrize("change", ["recover", "pause", "cancel and retry", "record"])
async def test_the_outcome_of_a_stale_attempt_is_refused(
    journal: SqliteJournal, database: Database, change: str
) -> None:
    job = await journal.submit(new_job(1))
    stale = await claim_one(journal)
    if change == "recover":
        assert await journal.recover(died=True) == 1
    elif change == "pause":
        await journal.pause(job.id, None)
        await journal.resume(job.id, None)
    elif change == "record":
        await record(journal, stale)
    else:
        await journal.cancel(job.id, None)
        await journal.retry(job.id, None)
    for _ in range(2):  # before it is handed out again, and after
        with pytest.raises(StaleAttempt):
            await record(journal, stale)
        with pytest.raises(StaleAttempt):
            await journal.fail(stale, PROBLEM, again=False)
        await journal.note_progress(stale, 0.5, "")
        for fresh in await journal.claim("work", 1, ""):
            assert fresh.attempt == 2
    if change != "record":
        await record(journal, fresh)
    assert await made(database) == [(0, 1 if change == "record" else 2)]
    assert not [each for each in await events(journal, job.id) if each[0] == "progress"]


async def test_interactive_jobs_go_first_and_owners_take_turns(journal: SqliteJournal) -> None:
    for owner in ("alice", "alice", "bob", "carol"):
        await journal.submit(new_job(2, owner=owner))
    await journal.submit(new_job(1, owner="bob", priority="interactive"))
    first = await journal.claim("work", 4, "")
    assert [each.owner for each in first] == ["bob", "carol", "alice", "bob"]
    rest = await journal.claim("work", 99, "bob")
    assert [each.owner for each in rest] == ["carol", "alice", "bob", "alice", "alice"]
    assert await journal.claim("work", 1, "") == []
    assert await journal.claim("other", 1, "") == []


async def test_a_failed_item_is_handed_out_again_or_stays_failed(journal: SqliteJournal) -> None:
    job = await journal.submit(new_job(1))
    await journal.fail(await claim_one(journal), PROBLEM, again=True)
    again = await claim_one(journal)
    assert (again.attempt, again.failures) == (2, 1)
    await journal.fail(again, PROBLEM, again=False)
    assert (await journal.find(job.id, None)).state == "failed"
    [[item], _] = await journal.items(job.id, None, state="failed", limit=5, cursor="")
    assert (item.attempt, item.error) == (2, PROBLEM)


async def test_cancelling_keeps_what_is_done_and_the_rest_can_be_retried(journal: SqliteJournal) -> None:
    job = await journal.submit(new_job(4))
    await record(journal, await claim_one(journal))
    await journal.fail(await claim_one(journal), PROBLEM, again=False)
    await claim_one(journal)
    cancelled = await journal.cancel(job.id, "alice")
    assert (cancelled.state, cancelled.n_done, cancelled.n_failed, cancelled.n_cancelled) == ("cancelled", 1, 1, 2)
    assert await journal.cancel(job.id, "alice") == cancelled
    assert await journal.claim("work", 9, "") == []
    [items, _] = await journal.items(job.id, None, state=None, limit=9, cursor="")
    assert [each.state for each in items] == ["done", "failed", "cancelled", "cancelled"]
    for state, places in (("cancelled", [2, 3]), ("queued", []), ("done", [0])):
        [items, _] = await journal.items(job.id, None, state=state, limit=9, cursor="")  # type: ignore[arg-type]
        assert [each.n for each in items] == places
    retried = await journal.retry(job.id, "alice")
    assert (retried.state, retried.n_queued, retried.n_failed, retried.n_cancelled) == ("queued", 3, 0, 0)
    assert [each.n for each in await journal.claim("work", 9, "")] == [1, 2, 3]
    with pytest.raises(Conflict):
        await journal.retry(job.id, "alice")


async def test_a_paused_job_waits_until_it_is_resumed(journal: SqliteJournal) -> None:
    job = await journal.submit(new_job(2))
    await claim_one(journal)
    paused = await journal.pause(job.id, "alice")
    assert (paused.paused, paused.n_queued, paused.n_running) == (True, 2, 0)
    assert await journal.claim("work", 1, "") == []
    assert not (await journal.resume(job.id, "alice")).paused
    assert (await claim_one(journal)).attempt == 2
    await journal.cancel(job.id, "alice")
    with pytest.raises(Conflict):
        await journal.pause(job.id, "alice")


@pytest.mark.parametrize("what", ["find", "cancel", "pause", "resume", "retry"])
async def test_anothers_job_looks_like_one_that_does_not_exist(journal: SqliteJournal, what: str) -> None:
    job = await journal.submit(new_job(1))
    with pytest.raises(NotFound) as anothers:
        await getattr(journal, what)(job.id, "bob")
    with pytest.raises(NotFound) as nobodys:
        await getattr(journal, what)("0" * 32, "bob")
    assert vars(anothers.value) == vars(nobodys.value)
    for page in (journal.items(job.id, "bob", state=None, limit=1, cursor=""), journal.events(job.id, "bob", 0, 1)):
        with pytest.raises(NotFound):
            await page
    assert (await journal.list("bob", kind=None, state=None, limit=9, cursor=""))[0] == []
    assert [each.id for each in (await journal.list(None, kind=None, state=None, limit=9, cursor=""))[0]] == [job.id]


async def test_pages_join_to_the_whole(journal: SqliteJournal) -> None:
    ids = [(await journal.submit(new_job(5))).id for _ in range(5)]
    await journal.submit(new_job(1, owner="bob"))
    found, cursor = [], ""
    for _ in range(3):
        page, cursor = await journal.list("alice", kind="work", state="queued", limit=2, cursor=cursor)
        found += [each.id for each in page]
    assert (found, cursor) == (ids[::-1], "")
    places, cursor = [], ""
    for _ in range(3):
        items, cursor = await journal.items(ids[0], None, state="queued", limit=2, cursor=cursor)
        places += [each.n for each in items]
    assert (places, cursor) == ([0, 1, 2, 3, 4], "")
    with pytest.raises(InvalidCursor):
        await journal.list("alice", kind=None, state=None, limit=2, cursor="rubbish")


async def test_a_large_job_arrives_whole_and_holds_the_writer_only_for_moments(
    journal: SqliteJournal, database: Database
) -> None:
    refused = {n: ItemProblem.of(Invalid()) for n in range(0, 10_000, 2)}
    held = 0.0

    async def submit(new: NewJob) -> Any:
        nonlocal held
        write = database.write

        async def timed(unit: Any) -> Any:
            def clocked(db: apsw.Connection) -> Any:
                nonlocal held
                began = time.thread_time()
                try:
                    return unit(db)
                finally:
                    held = max(held, time.thread_time() - began)

            return await write(clocked)

        database.write = timed  # type: ignore[method-assign,assignment]
        return await journal.submit(new)

    text = json.dumps({"text": "x" * 500})
    job = await submit(NewJob("work", "alice", "key", "batch", [text] * 10_000, refused))
    assert (job.n_items, job.n_queued, job.n_failed) == (10_000, 5_000, 5_000)
    await journal.cancel(job.id, None)
    await journal.retry(job.id, None)
    await journal.forget(journal.now() + 1)
    assert held < 0.5  # a unit with all 10,000 items takes seconds; the figure itself is a benchmark's
    assert [each.n for each in await journal.claim("work", 2, "")] == [1, 3]


async def test_a_job_that_had_not_arrived_whole_is_gone_after_a_restart(
    journal: SqliteJournal, database: Database
) -> None:
    write, n_writes = database.write, 0

    async def dying(unit: Any) -> Any:
        nonlocal n_writes
        n_writes += 1
        if n_writes == 2:
            raise RuntimeError
        return await write(unit)

    database.write = dying  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await journal.submit(new_job(SLICE_ITEMS + 1))
    assert (await journal.list(None, kind=None, state=None, limit=9, cursor=""))[0] == []
    assert await journal.claim("work", 1, "") == []
    await journal.recover(died=True)
    for table in ("jobs", "job_items", "job_inputs", "job_events"):
        assert await database.read(lambda db, t=table: db.execute(f"SELECT count(*) FROM {t}").fetchall()) == [(0,)]


async def test_items_that_are_refused_fail_at_once_and_stay_failed(journal: SqliteJournal) -> None:
    problem = ItemProblem.of(Invalid("Wrong."))
    job = await journal.submit(NewJob("work", "alice", "key", "batch", ["{}", "{}"], {0: problem, 1: problem}))
    assert (job.state, job.finished, job.n_failed) == ("failed", True, 2)
    assert [each[2] for each in await events(journal, job.id)] == ["queued", "failed", "failed", "failed"]
    with pytest.raises(Conflict):
        await journal.retry(job.id, None)


async def test_an_item_that_ends_the_process_again_and_again_is_given_up(journal: SqliteJournal) -> None:
    job = await journal.submit(new_job(1))
    for _ in range(MAX_INTERRUPTIONS):
        await claim_one(journal)
        await journal.recover(died=False)  # an end in order does not count
        await claim_one(journal)
        await journal.recover(died=True)
    assert (await journal.find(job.id, None)).state == "failed"
    assert await journal.claim("work", 1, "") == []


async def test_finished_jobs_are_forgotten_after_a_while(journal: SqliteJournal, clock: Clock) -> None:
    old, young, waiting = [(await journal.submit(new_job(1200))).id for _ in range(3)]
    await journal.cancel(old, None)
    clock.now += 100
    await journal.cancel(young, None)
    assert await journal.forget(clock.now - 50) == 1
    left, _ = await journal.list(None, kind=None, state=None, limit=9, cursor="")
    assert [each.id for each in left] == [waiting, young]


HOT = [
    "NEXT_JOB FIRST_JOB NEXT_ITEM CLAIM_ITEM CLAIM_JOB INPUT SETTLE_ITEM SETTLE_JOB FINISH_JOB IS_RUNNING",
    "NUMBER_EVENT EVENTS JOB_BY_ID JOB_BY_NUMBER JOBS_OF ALL_JOBS ITEMS ITEMS_IN_STATE",
    "PUT_BACK CANCEL_JOB PAUSE_JOB RESUME_JOB FAILED_ITEMS RETRY_ITEM RETRY_JOB OVERDUE_JOB",
]


@pytest.mark.parametrize("name", " ".join(HOT).split())
async def test_no_statement_scans_or_sorts(journal: SqliteJournal, database: Database, name: str) -> None:
    sql = getattr(statements, name)
    names = re.findall(r":(\w+)", sql)
    values: Any = dict.fromkeys(names, 1) if names else (1,) * sql.count("?")
    plan = await database.read(lambda db: [str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)])
    assert not [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step], plan
    assert any("SEARCH" in step for step in plan)


@pytest.mark.parametrize("name", ["RUNNING_ITEMS", "ARRIVING_JOBS"])
async def test_a_start_looks_at_open_jobs_only(journal: SqliteJournal, database: Database, name: str) -> None:
    sql = getattr(statements, name)
    plan = await database.read(lambda db: [str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")])
    assert "jobs_open" in plan[0]
    assert all("SCAN" not in step for step in plan[1:])
