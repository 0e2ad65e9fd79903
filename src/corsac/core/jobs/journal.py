"""Where jobs are kept: an item's result and the rows it made are one transaction, so neither is there alone."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from corsac.core.exceptions import Conflict, InternalError, InvalidCursor
from corsac.core.jobs import statements as sql
from corsac.core.jobs.entries import (
    SLICE_ITEMS,
    add_event,
    add_items,
    claim_item,
    event_of,
    finish_if_idle,
    item_of,
    job_by_id,
    job_by_number,
    job_of,
    next_job,
    settle,
    slices_of,
)
from corsac.core.jobs.job import PRIORITIES, Claim, ItemProblem, Job, JobItem, JobState, NewJob

if TYPE_CHECKING:
    import apsw

    from corsac.core.storage.database import Database
    from corsac.core.streams.event import Event

MAX_INTERRUPTIONS = 25

Rows = Callable[["apsw.Connection"], object]


class Journal(Protocol):
    """What the runner asks of a store of jobs. `owner` is whose a job has to be; None: anybody's.

    Methods that take a `job_id` raise NotFound for one that is another's as for one that does not exist.
    """

    async def recover(self, *, died: bool) -> int:
        """Put back what runs, as nobody runs it any more: the process died, or ended in order.

        Returns:
            How many items wait again.
        """
        ...

    async def submit(self, new: NewJob) -> Job:
        """Store a job; durable when it returns, and not there at all before."""
        ...

    async def claim(self, kind: str, limit: int, after: str) -> Sequence[Claim]:
        """Hand out waiting items: interactive ones first, owners in turn from the one behind `after`."""
        ...

    async def record(self, claim: Claim, output: str, rows: Rows | None) -> None:
        """Store an item's result and what `rows` writes, both or neither.

        Raises:
            StaleAttempt: It is no longer this attempt's.
        """
        ...

    async def fail(self, claim: Claim, problem: ItemProblem, *, again: bool) -> None:
        """Note that an attempt failed, and whether the item waits for another.

        Raises:
            StaleAttempt: It is no longer this attempt's.
        """
        ...

    async def note_progress(self, claim: Claim, fraction: float, note: str) -> None:
        """Add an event that says how far an item is; nothing where it is no longer this attempt's."""
        ...

    async def find(self, job_id: str, owner: str | None) -> Job:
        """A job."""
        ...

    async def list(
        self, owner: str | None, *, kind: str | None, state: JobState | None, limit: int, cursor: str
    ) -> tuple[Sequence[Job], str]:
        """A page of jobs, the newest first, and the cursor of the next."""
        ...

    async def items(
        self, job_id: str, owner: str | None, *, state: JobState | None, limit: int, cursor: str
    ) -> tuple[Sequence[JobItem], str]:
        """A page of a job's items, in order, and the cursor of the next."""
        ...

    async def events(self, job_id: str, owner: str | None, after: int, limit: int) -> tuple[Job, Sequence[Event]]:
        """The events behind number `after`, and the job as it was after the last of all its events."""
        ...

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        """End a job; a finished one stays as it is."""
        ...

    async def pause(self, job_id: str, owner: str | None) -> Job:
        """Put its running items back and hold all that wait."""
        ...

    async def resume(self, job_id: str, owner: str | None) -> Job:
        """Let a paused job go on."""
        ...

    async def retry(self, job_id: str, owner: str | None) -> Job:
        """Queue its failed and cancelled items again; not those that were refused when it was submitted.

        Raises:
            Conflict: There are none.
        """
        ...

    async def forget(self, before: float) -> int:
        """Delete the jobs that finished before a time in epoch seconds; returns how many."""
        ...


class SqliteJournal:
    """The journal in the server's own database. Implements `Journal`.

    Args:
        database: Has the tables of `0002_jobs.sql`.
        now: Epoch seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self.database = database
        self.now = now

    async def recover(self, *, died: bool) -> int:
        now = self.now()

        def unit(db: apsw.Connection) -> int:
            running: Sequence[Any] = db.execute(sql.RUNNING_ITEMS).fetchall()
            for job, n, attempt, interruptions in running:
                if died and interruptions + 1 >= MAX_INTERRUPTIONS:
                    error = InternalError(f"The server ended {MAX_INTERRUPTIONS} times while it ran this item.")
                    settle(db, job, n, attempt, "failed", now, error=ItemProblem.of(error))
                else:
                    settle(db, job, n, attempt, "queued", now, interruptions=int(died))
            return len(running)

        n_back = await self.database.write(unit)
        arriving: Sequence[Any] = await self.database.read(lambda db: db.execute(sql.ARRIVING_JOBS).fetchall())
        for (number,) in arriving:
            await self._delete(number)
        return n_back

    async def submit(self, new: NewJob) -> Job:
        number, now, n_waiting = 0, self.now(), len(new.inputs) - len(new.refused)
        row = {
            "id": secrets.token_hex(16),
            "kind": new.kind,
            "owner": new.owner,
            "key_id": new.key_id,
            "rank": PRIORITIES.index(new.priority),
            "detail": new.detail,
            "n_items": len(new.inputs),
            "n_failed": len(new.refused),
            "created_at": now,
        }

        def unit(db: apsw.Connection, part: range) -> int:
            job = number
            if part.start == 0:
                db.execute(sql.INSERT_JOB, row)
                job = db.last_insert_rowid()
                first = job_of(job_by_number(db, job), state="queued", n_queued=n_waiting)
                add_event(db, job, "snapshot", None, first.model_dump_json())
            add_items(db, job, new, part, now)
            if part.stop == len(new.inputs):
                db.execute(sql.OPEN_JOB, (job,))
                finish_if_idle(db, job, n_waiting, now)
            return job

        for part in slices_of(new.inputs):
            number = await self.database.write(partial(unit, part=part))
        return await self.database.read(lambda db: job_of(job_by_number(db, number)))

    async def claim(self, kind: str, limit: int, after: str) -> Sequence[Claim]:
        now = self.now()

        def unit(db: apsw.Connection) -> Sequence[Claim]:
            claims: list[Claim] = []
            owner = after
            while len(claims) < limit and (found := next_job(db, kind, owner)):
                job, owner = found
                claims.append(claim_item(db, job, owner, now))
            return claims

        return await self.database.write(unit)

    async def record(self, claim: Claim, output: str, rows: Rows | None) -> None:
        now = self.now()

        def unit(db: apsw.Connection) -> None:
            settle(db, claim.job, claim.n, claim.attempt, "done", now, output=output)
            if rows is not None:
                rows(db)

        await self.database.write(unit)

    async def fail(self, claim: Claim, problem: ItemProblem, *, again: bool) -> None:
        now = self.now()

        def unit(db: apsw.Connection) -> None:
            state = "queued" if again else "failed"
            settle(db, claim.job, claim.n, claim.attempt, state, now, error=problem, failures=1)

        await self.database.write(unit)

    async def note_progress(self, claim: Claim, fraction: float, note: str) -> None:
        content = json.dumps({"n": claim.n, "fraction": fraction, "note": note})

        def unit(db: apsw.Connection) -> None:
            if db.execute(sql.IS_RUNNING, (claim.job, claim.n, claim.attempt)).fetchall():
                add_event(db, claim.job, "progress", claim.n, content)

        await self.database.write(unit)

    async def find(self, job_id: str, owner: str | None) -> Job:
        return await self.database.read(lambda db: job_of(job_by_id(db, job_id, owner)))

    async def list(
        self, owner: str | None, *, kind: str | None, state: JobState | None, limit: int, cursor: str
    ) -> tuple[Sequence[Job], str]:
        before = _position(cursor, default=sys.maxsize)
        values: dict[str, Any] = {"kind": kind, "state": state, "before": before, "limit": limit + 1}
        query = sql.ALL_JOBS
        if owner is not None:
            query = sql.JOBS_OF
            values["owner"] = owner
        rows = await self.database.read(lambda db: db.execute(query, values).fetchall())
        return [job_of(row) for row in rows[:limit]], str(rows[limit - 1][0]) if len(rows) > limit else ""

    async def items(
        self, job_id: str, owner: str | None, *, state: JobState | None, limit: int, cursor: str
    ) -> tuple[Sequence[JobItem], str]:
        after = _position(cursor, default=-1)

        def query(db: apsw.Connection) -> tuple[Sequence[JobItem], str]:
            number, *_ = row = job_by_id(db, job_id, owner)
            # What waits in a cancelled job is cancelled; see 0002_jobs.sql.
            waiting = "cancelled" if job_of(row).state == "cancelled" else "queued"
            if state in ("queued", "cancelled") and state != waiting:
                return [], ""
            if state is None:
                rows = db.execute(sql.ITEMS, {"job": number, "after": after, "limit": limit + 1}).fetchall()
            else:
                stored = "queued" if state == waiting else state
                values = {"job": number, "state": stored, "after": after, "limit": limit + 1}
                rows = db.execute(sql.ITEMS_IN_STATE, values).fetchall()
            page = [item_of(each, waiting) for each in rows[:limit]]
            return page, str(page[-1].n) if len(rows) > limit else ""

        return await self.database.read(query)

    async def events(self, job_id: str, owner: str | None, after: int, limit: int) -> tuple[Job, Sequence[Event]]:
        def query(db: apsw.Connection) -> tuple[Job, Sequence[Event]]:
            number, *_ = row = job_by_id(db, job_id, owner)
            events: Sequence[Any] = db.execute(sql.EVENTS, (number, after, limit)).fetchall()
            return job_of(row), [event_of(*each) for each in events]

        return await self.database.read(query)

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        now = self.now()

        def change(db: apsw.Connection, number: int, job: Job) -> bool:
            if job.finished:
                return False
            db.execute(sql.PUT_BACK, (number,))
            db.execute(sql.CANCEL_JOB, (now, number))
            return True

        return await self._change(job_id, owner, change)

    async def pause(self, job_id: str, owner: str | None) -> Job:
        def change(db: apsw.Connection, number: int, job: Job) -> bool:
            if job.finished:
                raise Conflict("The job has finished, so there is nothing to pause.")
            db.execute(sql.PUT_BACK, (number,))
            db.execute(sql.PAUSE_JOB, (number,))
            return not job.paused

        return await self._change(job_id, owner, change)

    async def resume(self, job_id: str, owner: str | None) -> Job:
        def change(db: apsw.Connection, number: int, job: Job) -> bool:
            db.execute(sql.RESUME_JOB, (number,))
            return job.paused

        return await self._change(job_id, owner, change)

    async def retry(self, job_id: str, owner: str | None) -> Job:
        last = -1
        while True:
            found: list[int] = []

            def change(db: apsw.Connection, number: int, job: Job, last: int = last, found: list[int] = found) -> bool:
                rows: Sequence[Any] = db.execute(sql.FAILED_ITEMS, (number, last, SLICE_ITEMS)).fetchall()
                found[:] = [n for (n,) in rows]
                if not found and not job.n_cancelled:
                    if last < 0:
                        raise Conflict("No item of this job has failed or was cancelled after it could be run.")
                    return False
                db.executemany(sql.RETRY_ITEM, [(number, n) for n in found])
                db.execute(sql.RETRY_JOB, {"job": number, "failed": len(found)})
                return True

            job = await self._change(job_id, owner, change)
            if len(found) < SLICE_ITEMS:
                return job
            last = found[-1]

    async def forget(self, before: float) -> int:
        n_jobs = 0
        while overdue := await self.database.read(lambda db: db.execute(sql.OVERDUE_JOB, (before,)).fetchall()):
            await self._delete(int(str(overdue[0][0])))
            n_jobs += 1
        return n_jobs

    async def _change(self, job_id: str, owner: str | None, change: Callable[[apsw.Connection, int, Job], bool]) -> Job:
        """Change a job in one unit, and tell of it where `change` says that something did."""

        def unit(db: apsw.Connection) -> Job:
            number, *_ = row = job_by_id(db, job_id, owner)
            changed = change(db, number, job_of(row))
            job = job_of(job_by_number(db, number))
            if changed:
                add_event(db, number, "snapshot", None, job.model_dump_json())
            return job

        return await self.database.write(unit)

    async def _delete(self, number: int) -> None:
        def unit(db: apsw.Connection) -> bool:
            for statement in sql.DELETE_SLICES:
                db.execute(statement, {"job": number, "limit": SLICE_ITEMS})
                if db.changes():
                    return True
            db.execute(sql.DELETE_JOB, (number,))
            return False

        while await self.database.write(unit):
            pass


def _position(cursor: str, *, default: int) -> int:
    try:
        return int(cursor) if cursor else default
    except ValueError:
        raise InvalidCursor from None
