"""What a job is: items of one kind of work, their states, and what becomes of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from corsac.core.bodies import Reply
from corsac.core.exceptions import CorsacError, TooLarge

if TYPE_CHECKING:
    import apsw

    from corsac.core.call import Call

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
Priority = Literal["interactive", "batch"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")
MAX_ITEMS = 10_000


class BatchTooLarge(TooLarge):
    """The batch has too many items.

    A job has at most 10000 items: split the batch.
    """

    reason = "BATCH_TOO_LARGE"


class StaleAttempt(Exception):
    """The item was handed out again or cancelled since, so this outcome does not count."""


class ItemPlace(Reply):
    """One invalid place of an item."""

    pointer: str = Field(description="JSON Pointer into the item.")
    reason: str
    detail: str


class ItemProblem(Reply):
    """Why an item failed, in the words of a problem document."""

    reason: str
    detail: str
    retry: str
    hint: str | None = None
    errors: list[ItemPlace] = Field(default_factory=list)

    @classmethod
    def of(cls, error: CorsacError) -> ItemProblem:
        """The problem that an error makes of an item."""
        places = [ItemPlace(pointer=e.pointer, reason=e.reason, detail=e.detail) for e in error.errors]
        return cls(reason=error.reason, detail=error.detail, retry=error.retry, hint=error.hint, errors=places)


class Job(Reply):
    """A job: where it is, and how many of its items are in which state."""

    id: str
    kind: str
    owner: str
    priority: Priority
    state: JobState = Field(
        description="`done` once no item waits or runs and at least one has a result; `failed` where none has."
    )
    paused: bool = Field(description="Whether its waiting items are held back.")
    detail: dict[str, Any] = Field(description="What its maker noted.")
    n_items: int
    n_queued: int
    n_running: int
    n_done: int
    n_failed: int
    n_cancelled: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    url: str
    events_url: str = Field(description="Its events as a stream, from the beginning or `after` one.")

    @property
    def finished(self) -> bool:
        """Whether nothing of it waits or runs."""
        return self.finished_at is not None


class JobItem(Reply):
    """One item: its state, and its result or problem."""

    n: int = Field(description="Its place in the job, from 0.")
    state: JobState
    attempt: int = Field(description="How often it was handed out.")
    output: dict[str, Any] | None
    error: ItemProblem | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored.

    Args:
        kind: Name of the work that each item is for.
        owner: Id of the principal that it belongs to.
        key_id: The credential that asked for it.
        priority: `interactive` goes first.
        inputs: One JSON text an item.
        refused: Problems of items that are not to be run, by their number.
        detail: A JSON text.
    """

    kind: str
    owner: str
    key_id: str
    priority: Priority
    inputs: Sequence[str]
    refused: Mapping[int, ItemProblem] = field(default_factory=dict)
    detail: str = "{}"


@dataclass(frozen=True, slots=True)
class Claim:
    """An item that was handed out to be run.

    Args:
        job: The journal's number of the job.
        job_id: The job's id.
        owner: Id of the principal that the job belongs to.
        key_id: The credential that asked for it.
        n: The item's place in the job.
        attempt: Which time it was handed out, from 1; its outcome is recorded only for the last.
        failures: How often it has failed before.
        input: What to work on.
        detail: What the job's maker noted.
    """

    job: int
    job_id: str
    owner: str
    key_id: str
    n: int
    attempt: int
    failures: int
    input: dict[str, Any]
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What came of an item.

    Args:
        output: JSON of at most 256 KiB; larger results are artifacts.
        rows: Writes what else the item made, in the transaction that records the output: it is called with the
            writer's connection, takes a few milliseconds, and may be called a second time after a failed commit.
            `ArtifactStore.prepare` makes one.
    """

    output: Mapping[str, Any]
    rows: Callable[[apsw.Connection], object] | None = None


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the work on an item knows about it.

    Args:
        job_id: Its job.
        n: Its place in the job.
        attempt: Which time it is run, from 1. Recording happens once, running may happen more often: what has an
            effect outside of the database carries a key made of `job_id` and `n`.
        detail: What the job's maker noted.
        call: The owner's, with the item's deadline; it sees the owner's rows only.
        progress: Tell how far it is, from 0 to 1, and a word about it; said more often than twice a second,
            only some of it is passed on.
    """

    job_id: str
    n: int
    attempt: int
    detail: Mapping[str, Any]
    call: Call
    progress: Callable[[float, str], Awaitable[None]]


Work = Callable[[JobContext, dict[str, Any]], Awaitable[ItemResult]]
"""Runs one item."""
