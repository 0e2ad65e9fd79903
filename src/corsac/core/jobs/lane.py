"""One kind of work: hands its items out, runs a few at a time, and has their outcomes recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import Counter, Gauge
from structlog.contextvars import bound_contextvars

from corsac.core.call import CURRENT_CALL, Call
from corsac.core.exceptions import InternalError, StorageFailed, StorageFull
from corsac.core.identity import Principal
from corsac.core.jobs.job import Claim, ItemProblem, JobContext, StaleAttempt, Work

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from corsac.core.error_handler import ServiceErrorHandler
    from corsac.core.jobs.journal import Journal
    from corsac.core.jobs.progress import Changes

MAX_OUTPUT_BYTES = 256 << 10
CANCEL_S = 1.0
"""Seconds within which work that is cancelled ends."""
PROGRESS_EVERY_S = 0.5
HOLD_AT_MOST_S = 30.0
STORE_AGAIN_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to store an outcome while the disk fails; the last one repeats."""


class JobMetrics:
    """What is counted of items."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter(
            "corsac_job_items", "Attempts at items by kind and outcome.", ("kind", "outcome"), registry=registry
        )
        self.running = Gauge("corsac_job_items_running", "Items that run now.", ("kind",), registry=registry)


@dataclass(frozen=True, slots=True)
class Terms:
    """How items of a kind are run.

    Args:
        concurrency: How many run at a time.
        attempts: How often an item is run at most whose error says that a repetition may help.
        timeout_s: Seconds for one attempt.
    """

    concurrency: int = 1
    attempts: int = 2
    timeout_s: float = 600.0


class Lane:
    """Runs the items of one kind.

    Args:
        kind: Its name.
        work: Runs one item.
        terms: How.
        journal: Hands items out and records what comes of them.
        changes: Told of every outcome.
        errors: Translates, counts and logs what the work raises.
        metrics: Counts outcomes.
        monotonic: Seconds.
    """

    def __init__(
        self,
        kind: str,
        work: Work,
        terms: Terms,
        *,
        journal: Journal,
        changes: Changes,
        errors: ServiceErrorHandler,
        metrics: JobMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.kind, self.work, self.terms = kind, work, terms
        self.journal, self.changes, self.errors, self.metrics = journal, changes, errors, metrics
        self.logger, self.monotonic = errors.logger, monotonic
        self.running: dict[asyncio.Task[None], Claim] = {}
        self._news = asyncio.Event()
        self._served = ""
        self._held_until = float("-inf")
        self._dispatcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to hand out items."""
        self.wake()
        self._dispatcher = asyncio.create_task(self._hand_out(), name=f"jobs {self.kind}")

    def drain(self) -> None:
        """Hand out no more; what runs goes on."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()

    async def drained(self) -> None:
        """Wait until nothing more is handed out."""
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher})

    def wake(self) -> None:
        """Say that an item may be waiting."""
        self._news.set()

    async def _hand_out(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            free = self.terms.concurrency - len(self.running)
            if free <= 0 or self.monotonic() < self._held_until:
                continue
            try:
                claims = await self.journal.claim(self.kind, free, self._served)
            except Exception as error:
                self.logger.error("no item could be handed out", kind=self.kind, exc_info=error)
                self._wake_in(STORE_AGAIN_S[-1])
                continue
            for claim in claims:
                self._served = claim.owner
                task = asyncio.create_task(self._run(claim), name=f"{self.kind} {claim.job_id}.{claim.n}")
                self.running[task] = claim
                task.add_done_callback(self._ended)
            self.metrics.running.labels(self.kind).set(len(self.running))

    def _ended(self, task: asyncio.Task[None]) -> None:
        claim = self.running.pop(task)
        self.metrics.running.labels(self.kind).set(len(self.running))
        self.wake()
        self.changes.tell(claim.job_id)
        if not task.cancelled() and (error := task.exception()):
            self.logger.error("an outcome was lost", kind=self.kind, job_id=claim.job_id, item=claim.n, exc_info=error)

    async def _run(self, claim: Claim) -> None:
        outcome = "stopped"
        try:
            with bound_contextvars(job_id=claim.job_id, item=claim.n):
                outcome = await self._attempt(claim)
        except StaleAttempt:
            outcome = "stale"
            self.logger.warning("a stale outcome was thrown away", kind=self.kind, job_id=claim.job_id, item=claim.n)
        finally:
            self.metrics.outcomes.labels(self.kind, outcome).inc()

    async def _attempt(self, claim: Claim) -> str:
        try:
            async with asyncio.timeout(self.terms.timeout_s):
                result = await self.work(self._context(claim), claim.input)
            output = output_json(result.output)
            await self._store(lambda: self.journal.record(claim, output, result.rows))
        except StaleAttempt:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            task = asyncio.current_task()
            if isinstance(raised, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            problem, again = self._judged(claim, raised)
        else:
            return "done"
        await self._store(lambda: self.journal.fail(claim, problem, again=again))
        return "again" if again else "failed"

    def _judged(self, claim: Claim, raised: BaseException) -> tuple[ItemProblem, bool]:
        """What is wrong with an item, and whether it is run again."""
        if isinstance(raised, Exception):
            error = self.errors.handle_service_error(self.kind, raised)
        else:
            self.logger.error("work tried to end the process or its task", kind=self.kind, exc_info=raised)
            error = InternalError()
        again = error.retry == "retry" and claim.failures + 1 < self.terms.attempts
        if again and error.retry_after_s:
            # All of a kind need the same things, so all wait: else a batch would fail at the speed of its refusals.
            hold_s = min(error.retry_after_s, HOLD_AT_MOST_S)
            self._held_until = self.monotonic() + hold_s
            self._wake_in(hold_s)
        return ItemProblem.of(error), again

    def _context(self, claim: Claim) -> JobContext:
        # The credential's rights were looked at when the job was submitted; the work sees its owner's rows only.
        call = Call(
            f"{claim.job_id}.{claim.n}",
            Principal(claim.owner, claim.key_id, frozenset()),
            deadline=self.monotonic() + self.terms.timeout_s,
            operation=self.kind,
            monotonic=self.monotonic,
        )
        CURRENT_CALL.set(call)
        told_at = float("-inf")

        async def progress(fraction: float, note: str) -> None:
            nonlocal told_at
            if self.monotonic() - told_at < PROGRESS_EVERY_S:
                return
            told_at = self.monotonic()
            try:
                await self.journal.note_progress(claim, max(0.0, min(1.0, fraction)), note)
            except (StorageFailed, StorageFull) as error:
                self.logger.warning("progress was not stored", kind=self.kind, reason=error.reason)
            self.changes.tell(claim.job_id)

        return JobContext(claim.job_id, claim.n, claim.attempt, claim.detail, call, progress)

    async def _store(self, write: Callable[[], Awaitable[None]]) -> None:
        """Store an outcome, however long the disk fails: work that is done is not thrown away.

        A commit of which it is not known whether it happened makes the next attempt stale.
        """
        for pause_s in chain(STORE_AGAIN_S, repeat(STORE_AGAIN_S[-1])):
            try:
                await write()
                break
            except (StorageFailed, StorageFull) as error:
                self.logger.warning("an outcome was not stored yet", kind=self.kind, reason=error.reason)
            await asyncio.sleep(pause_s)

    def _wake_in(self, pause_s: float) -> None:
        asyncio.get_running_loop().call_later(pause_s, self.wake)


async def end(tasks: Sequence[asyncio.Task[None]]) -> int:
    """Cancel tasks; returns how many go on all the same after a second."""
    for task in tasks:
        task.cancel()
    _, hanging = await asyncio.wait(tasks, timeout=CANCEL_S) if tasks else ((), ())
    return len(hanging)


def output_json(output: Mapping[str, Any]) -> str:
    """An item's output as JSON.

    Raises:
        TypeError, ValueError: JSON cannot say it, or it is too large.
    """
    encoded = orjson.dumps(output)
    if len(encoded) > MAX_OUTPUT_BYTES:
        raise ValueError(f"The output has {len(encoded)} bytes; what is larger than {MAX_OUTPUT_BYTES} is an artifact.")
    return encoded.decode()
