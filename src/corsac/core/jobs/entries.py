"""What one unit or query of the journal does to the tables of `0002_jobs.sql`; each function works on a connection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from corsac.core.exceptions import NotFound
from corsac.core.jobs import statements as sql
from corsac.core.jobs.job import PRIORITIES, Claim, ItemProblem, Job, JobItem, NewJob, StaleAttempt
from corsac.core.streams.event import Event

if TYPE_CHECKING:
    import apsw

SLICE_ITEMS = 500
SLICE_BYTES = 256 << 10
"""How much of a large job one unit stores, so that it holds the writer for some 10 ms."""


def slices_of(inputs: Sequence[str]) -> Iterator[range]:
    """Ranges of items that one unit stores each."""
    start = size = 0
    for n, text in enumerate(inputs):
        if n > start and (n - start == SLICE_ITEMS or size + len(text) > SLICE_BYTES):
            yield range(start, n)
            start, size = n, 0
        size += len(text)
    yield range(start, len(inputs))


def add_items(db: apsw.Connection, job: int, new: NewJob, part: range, now: float) -> None:
    """Store some items of a new job; the refused ones have failed already."""
    db.executemany(
        sql.INSERT_ITEM,
        [
            (job, n, "failed", problem.model_dump_json(), now) if problem else (job, n, "queued", None, None)
            for n in part
            for problem in (new.refused.get(n),)
        ],
    )
    db.executemany(sql.INSERT_INPUT, [(job, n, new.inputs[n]) for n in part])
    for n in part:
        if problem := new.refused.get(n):
            content = {"n": n, "state": "failed", "attempt": 0, "error": problem.model_dump()}
            add_event(db, job, "item", n, json.dumps(content))


def next_job(db: apsw.Connection, kind: str, after: str) -> tuple[int, str] | None:
    """Number and owner of the job whose item is next: the most urgent, of the owner behind `after`."""
    for rank in range(len(PRIORITIES)):
        values = {"kind": kind, "rank": rank}
        found = (
            db.execute(sql.NEXT_JOB, {**values, "after": after}).fetchall()
            or db.execute(sql.FIRST_JOB, values).fetchall()
        )
        if found:
            [(number, owner)] = found
            return int(str(number)), str(owner)
    return None


def claim_item(db: apsw.Connection, job: int, owner: str, now: float) -> Claim:
    """Hand out the first waiting item of a job that has one."""
    [(n,)] = db.execute(sql.NEXT_ITEM, (job,)).fetchall()
    [(attempt, failures)] = db.execute(sql.CLAIM_ITEM, (job, n)).fetchall()
    [(job_id, key_id, detail)] = db.execute(sql.CLAIM_JOB, {"job": job, "now": now}).fetchall()
    [(text,)] = db.execute(sql.INPUT, (job, n)).fetchall()
    return Claim(job, job_id, owner, key_id, n, attempt, failures, json.loads(text), json.loads(detail))  # type: ignore[arg-type]


def settle(
    db: apsw.Connection,
    job: int,
    n: int,
    attempt: int,
    state: str,
    now: float,
    *,
    output: str | None = None,
    error: ItemProblem | None = None,
    failures: int = 0,
    interruptions: int = 0,
) -> None:
    """Move a running item on, count it, and tell of it.

    Raises:
        StaleAttempt: This attempt at it does not run.
    """
    values = {
        "job": job,
        "n": n,
        "attempt": attempt,
        "state": state,
        "output": output,
        "error": error.model_dump_json() if error else None,
        "finished_at": None if state == "queued" else now,
        "failures": failures,
        "interruptions": interruptions,
    }
    db.execute(sql.SETTLE_ITEM, values)
    if db.changes() != 1:
        raise StaleAttempt(f"item {n}, attempt {attempt}")
    counts: dict[str, Any] = {"job": job, **{each: int(state == each) for each in ("queued", "done", "failed")}}
    [(n_items, n_done, n_failed, n_open)] = db.execute(sql.SETTLE_JOB, counts).fetchall()
    content: dict[str, Any] = {"n": n, "state": state, "attempt": attempt}
    if error:
        content["error"] = error.model_dump()
    content |= {"n_items": n_items, "n_done": n_done, "n_failed": n_failed}
    add_event(db, job, "item", n, json.dumps(content))
    finish_if_idle(db, job, int(str(n_open)), now)


def finish_if_idle(db: apsw.Connection, job: int, n_open: int, now: float) -> None:
    """End a job of which nothing waits or runs."""
    if n_open == 0:
        db.execute(sql.FINISH_JOB, (now, job))
        add_event(db, job, "snapshot", None, job_of(job_by_number(db, job)).model_dump_json())


def add_event(db: apsw.Connection, job: int, kind: str, item: int | None, content: str) -> None:
    """Tell something of a job, under its next number."""
    [(number,)] = db.execute(sql.NUMBER_EVENT, (job,)).fetchall()
    db.execute(sql.INSERT_EVENT, (job, number, kind, item, content))


def event_of(number: int, kind: str, content: str, output: str | None) -> Event:
    """An event from its row; that of a result has the result in it."""
    told = json.loads(content)
    if output is not None and told["state"] == "done":
        told["output"] = json.loads(output)
    return Event(kind, told, number)


def job_by_id(db: apsw.Connection, job_id: str, owner: str | None) -> Sequence[Any]:
    """The row of a job.

    Raises:
        NotFound: There is none, or it is another's: the same answer.
    """
    found = db.execute(sql.JOB_BY_ID, (job_id, owner)).fetchall()
    if not found:
        raise NotFound
    return found[0]


def job_by_number(db: apsw.Connection, number: int) -> Sequence[Any]:
    """The row of a job that there is."""
    return db.execute(sql.JOB_BY_NUMBER, (number,)).fetchall()[0]


def job_of(row: Sequence[Any], **instead: Any) -> Job:
    """A job from its row, with some values replaced."""
    # In the order of 0002_jobs.sql; columns that are added later come behind.
    _, job_id, kind, owner, _, rank, state, paused, detail, *row = row
    n_items, n_queued, n_running, n_done, n_failed, n_cancelled, _, created_at, started_at, finished_at, *_ = row
    return Job.model_validate(
        {
            "id": job_id,
            "kind": kind,
            "owner": owner,
            "priority": PRIORITIES[rank],
            "state": state,
            "paused": bool(paused),
            "detail": json.loads(detail),
            "n_items": n_items,
            "n_queued": n_queued,
            "n_running": n_running,
            "n_done": n_done,
            "n_failed": n_failed,
            "n_cancelled": n_cancelled,
            "created_at": _time(created_at),
            "started_at": _time(started_at),
            "finished_at": _time(finished_at),
            "url": f"/api/jobs/{job_id}",
            "events_url": f"/api/jobs/{job_id}/events",
            **instead,
        }
    )


def item_of(row: Sequence[Any], waiting: str) -> JobItem:
    """An item from its row; `waiting` is what one that is stored as queued is called."""
    n, state, attempt, output, error, finished_at = row
    return JobItem.model_validate(
        {
            "n": n,
            "state": waiting if state == "queued" else state,
            "attempt": attempt,
            "output": json.loads(output) if output else None,
            "error": json.loads(error) if error else None,
            "finished_at": _time(finished_at),
        }
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
