"""A job's events as they come: the journal is the stream, so it goes on after any interruption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from corsac.core.streams.event import Event

if TYPE_CHECKING:
    from corsac.core.jobs.journal import Journal

PAGE_EVENTS = 50
LOOK_AGAIN_S = 5.0
"""Seconds after which a follower looks without being told, should another process write the journal."""


class Changes:
    """Wakes whoever waits for news of a job."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, job_id: str) -> None:
        """Something of the job has changed."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    def listen(self, job_id: str) -> asyncio.Event:
        """An event that is set at each change, until `leave`."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        return event

    def leave(self, job_id: str, event: asyncio.Event) -> None:
        """Stop listening."""
        listeners = self._waiting[job_id]
        listeners.remove(event)
        if not listeners:
            del self._waiting[job_id]


async def follow(
    journal: Journal, changes: Changes, job_id: str, owner: str | None, after: int
) -> AsyncIterator[Event]:
    """The events of a job behind the one with the id `after`, until the job has finished.

    `snapshot` has the whole job: at its beginning and end, and where it is paused, resumed, cancelled or retried.
    `item` has an item whose state changed, with its output or error; `progress` how far a running item is.

    An id is twice the event's number in the journal: a stream gives its own last event the next id, and whoever goes on
    behind that must not miss the journal's. Whoever knows some events gets a snapshot first, under the id that it
    knows, so that something comes at once and the stream's own ids go on from there.

    Args:
        journal: Has the events.
        changes: Told after every change of the journal.
        job_id: The job.
        owner: Whose it has to be; None: anybody's.
        after: Id of the last event that is known; 0: none.

    Raises:
        NotFound: There is no such job, or it is another's; raised at the first step.
    """
    number = after // 2
    news = changes.listen(job_id)
    try:
        if number:
            yield Event("snapshot", await journal.find(job_id, owner), 2 * number)
        while True:
            news.clear()
            job, events = await journal.events(job_id, owner, number, PAGE_EVENTS)
            for event in events:
                yield replace(event, id=2 * event.id)
                number = event.id
            if len(events) == PAGE_EVENTS:
                continue
            if job.finished:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await news.wait()
    finally:
        changes.leave(job_id, news)
