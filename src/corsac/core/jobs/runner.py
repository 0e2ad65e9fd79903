"""Runs the items of jobs: a few of each kind at a time, the most urgent first, owners in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from corsac.core.call import Call
from corsac.core.exceptions import AlreadyRegistered, CorsacError
from corsac.core.jobs.job import (
    MAX_ITEMS,
    BatchTooLarge,
    ItemProblem,
    Job,
    JobItem,
    JobState,
    NewJob,
    Priority,
    Work,
)
from corsac.core.jobs.lane import CANCEL_S, JobMetrics, Lane, Terms, end
from corsac.core.jobs.progress import Changes, follow

if TYPE_CHECKING:
    from corsac.core.error_handler import ServiceErrorHandler
    from corsac.core.jobs.journal import Journal
    from corsac.core.streams.event import Event

T = TypeVar("T")


class JobRunner:
    """All long work and all batches.

    Args:
        journal: Keeps the jobs.
        errors: Translates, counts and logs what work raises.
        retention_days: Days that finished jobs are kept.
        now: Epoch seconds.
        monotonic: Seconds.
    """

    def __init__(
        self,
        journal: Journal,
        errors: ServiceErrorHandler,
        *,
        retention_days: float = 7.0,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.errors, self.logger = errors, errors.logger
        self.retention_s = retention_days * 86_400
        self.now, self.monotonic = now, monotonic
        self.changes = Changes()
        self._metrics = JobMetrics(errors.metrics.registry)
        self._lanes: dict[str, Lane] = {}
        self._asked: set[asyncio.Task[Any]] = set()
        self._started = False
        self._drained_at: float | None = None

    def register(
        self, kind: str, work: Work, *, concurrency: int = 1, attempts: int = 2, timeout_s: float = 600.0
    ) -> None:
        """Say how items of a kind are run.

        Args:
            kind: Its name, for example `tts.synthesize`.
            work: Runs one item. It may be called more than once for the same one: its outcome is recorded once.
            concurrency: How many run at a time.
            attempts: How often an item is run at most whose error says that a repetition may help.
            timeout_s: Seconds for one attempt.

        Raises:
            AlreadyRegistered: The name is taken.
        """
        if kind in self._lanes:
            raise AlreadyRegistered(f"Jobs of the kind {kind} are registered already.")
        lane = self._lanes[kind] = Lane(
            kind,
            work,
            Terms(concurrency, attempts, timeout_s),
            journal=self.journal,
            changes=self.changes,
            errors=self.errors,
            metrics=self._metrics,
            monotonic=self.monotonic,
        )
        if self._started:
            lane.start()

    async def start(self) -> None:
        """Go on where the last process ended. Once, before anything is submitted."""
        n_back = await self.journal.recover(died=True)
        if n_back:
            self.logger.info("items of jobs run again after a crash", n_items=n_back)
        self._started = True
        for lane in self._lanes.values():
            lane.start()

    def drain(self) -> None:
        """Start no more items; what runs goes on until `stop`."""
        if self._drained_at is None:
            self._drained_at = self.monotonic()
            for lane in self._lanes.values():
                lane.drain()

    async def stop(self, drain_s: float = 20.0) -> None:
        """Let what runs finish, and put back what does not in time; that does not count as an attempt.

        Args:
            drain_s: Seconds from `drain` on that running items get.
        """
        if not self._started:
            return
        self._started = False
        self.drain()
        await asyncio.gather(*(lane.drained() for lane in self._lanes.values()))
        left_s = drain_s - (self.monotonic() - (self._drained_at or 0.0))
        if running := [task for lane in self._lanes.values() for task in lane.running]:
            _, late = await asyncio.wait(running, timeout=max(0.0, left_s))
            await self._end(list(late))
        await self.journal.recover(died=False)

    async def submit(
        self,
        kind: str,
        items: Sequence[Mapping[str, Any]],
        *,
        call: Call,
        priority: Priority = "batch",
        detail: Mapping[str, Any] | None = None,
        refused: Mapping[int, CorsacError] | None = None,
    ) -> Job:
        """Have some work done.

        Args:
            kind: Which work.
            items: What to work on, at least one; each is handed to the work as it is.
            call: Whose job it is.
            priority: `interactive` is for work that somebody waits for; it goes first.
            detail: Handed to the work with every item, and shown.
            refused: Items that are not valid, by their number: they fail at once, and the others run.

        Returns:
            The job, durable.

        Raises:
            BatchTooLarge: More than 10,000 items.
        """
        if kind not in self._lanes or not items:
            raise ValueError(f"A job needs a registered kind and an item; this is {kind!r} with {len(items)}.")
        if len(items) > MAX_ITEMS:
            raise BatchTooLarge(f"The batch has {len(items)} items; a job has at most {MAX_ITEMS}.")
        new = NewJob(
            kind,
            owner=call.principal.id,
            key_id=call.principal.key_id,
            priority=priority,
            inputs=[orjson.dumps(item).decode() for item in items],
            refused={n: ItemProblem.of(error) for n, error in (refused or {}).items()},
            detail=orjson.dumps(detail or {}).decode(),
        )
        job = await self._whole(self.journal.submit(new))
        self._lanes[kind].wake()
        return job

    async def find(self, job_id: str, call: Call) -> Job:
        """A job of the caller's.

        Raises:
            NotFound: There is none, or it is another's: the same answer. So it is for all that take an id.
        """
        return await self.journal.find(job_id, call.principal.sees)

    async def list(
        self, call: Call, *, kind: str | None = None, state: JobState | None = None, limit: int = 50, cursor: str = ""
    ) -> tuple[Sequence[Job], str]:
        """A page of the caller's jobs, the newest first, and the cursor of the next page."""
        return await self.journal.list(call.principal.sees, kind=kind, state=state, limit=limit, cursor=cursor)

    async def items(
        self, job_id: str, call: Call, *, state: JobState | None = None, limit: int = 50, cursor: str = ""
    ) -> tuple[Sequence[JobItem], str]:
        """A page of a job's items, in order, and the cursor of the next page."""
        return await self.journal.items(job_id, call.principal.sees, state=state, limit=limit, cursor=cursor)

    def events(self, job_id: str, call: Call, after: int = 0) -> AsyncIterator[Event]:
        """The events of a job behind the one with the id `after`, until it has finished; see `follow`."""
        return follow(self.journal, self.changes, job_id, call.principal.sees, after)

    async def cancel(self, job_id: str, call: Call) -> Job:
        """End a job: what runs is stopped, what waits is not run, what is done stays."""
        return await self._whole(self._halt(self.journal.cancel(job_id, call.principal.sees)))

    async def pause(self, job_id: str, call: Call) -> Job:
        """Hold a job: what runs is stopped and waits again.

        Raises:
            Conflict: It has finished.
        """
        return await self._whole(self._halt(self.journal.pause(job_id, call.principal.sees)))

    async def resume(self, job_id: str, call: Call) -> Job:
        """Let a paused job go on."""
        return await self._whole(self._wake(self.journal.resume(job_id, call.principal.sees)))

    async def retry(self, job_id: str, call: Call) -> Job:
        """Run a job's failed and cancelled items again; those that were refused as invalid stay so.

        Raises:
            Conflict: There are none.
        """
        return await self._whole(self._wake(self.journal.retry(job_id, call.principal.sees)))

    async def sweep(self) -> int:
        """Delete finished jobs that are too old; returns how many."""
        return await self.journal.forget(self.now() - self.retention_s)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something that goes on to its end when the caller leaves."""
        task = asyncio.create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return await asyncio.shield(task)

    async def _halt(self, change: Awaitable[Job]) -> Job:
        job = await change
        self.changes.tell(job.id)
        lanes = self._lanes.values()
        await self._end([task for lane in lanes for task, claim in lane.running.items() if claim.job_id == job.id])
        return job

    async def _wake(self, change: Awaitable[Job]) -> Job:
        job = await change
        self.changes.tell(job.id)
        if job.kind in self._lanes:
            self._lanes[job.kind].wake()
        return job

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        if n_hanging := await end(tasks):
            self.logger.warning("cancelled work goes on", n_items=n_hanging, after_s=CANCEL_S)
