"""Jobs over HTTP: what became of long work and of batches, for those who asked for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query

from corsac.core.base_router import BaseRouter, get, post
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import Conflict, InvalidCursor, InvalidId, ScopeMissing
from corsac.core.identity import ANY
from corsac.core.jobs.job import Job, JobItem, JobState
from corsac.core.jobs.runner import JobRunner
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.paging import CursorSigner, Page, PageCursor, PageLimit
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin
from corsac.core.streams.event import MAX_ID, InvalidEventId, event_id
from corsac.core.streams.hub import StreamHub
from corsac.core.validation import refused_as

JobId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]
EVENTS = {"snapshot": Job, "item": dict, "progress": dict}


class JobsRouter(StreamingResponseMixin, BaseRouter):
    """The caller's jobs; an administrator sees everybody's."""

    prefix = "/api/jobs"
    tag = "jobs"
    scope = ANY

    def __init__(
        self,
        errors: ServiceErrorHandler,
        limiter: RateLimiter,
        *,
        runner: JobRunner,
        streams: StreamHub,
        cursors: CursorSigner,
    ) -> None:
        super().__init__(errors, limiter)
        self.runner = runner
        self.streams = streams
        self.cursors = cursors

    @get("", raises=(InvalidCursor,))
    async def list_jobs(
        self,
        call: Call,
        kind: Annotated[str | None, Query(max_length=64, description="Kind of work, as `tts.synthesize`.")] = None,
        state: JobState | None = None,
        limit: PageLimit = 50,
        cursor: PageCursor = "",
    ) -> Page[Job]:
        """Jobs, the newest first."""
        position = self.cursors.position(cursor)
        jobs, following = await self.runner.list(call, kind=kind, state=state, limit=limit, cursor=position)
        return Page(items=list(jobs), next_cursor=self.cursors.sign(following) if following else None)

    @get("/{job_id}")
    async def show(self, job_id: JobId, call: Call) -> Job:
        """One job."""
        return await self.runner.find(job_id, call)

    @get("/{job_id}/items", raises=(InvalidCursor,))
    async def list_items(
        self,
        job_id: JobId,
        call: Call,
        state: JobState | None = None,
        limit: PageLimit = 50,
        cursor: PageCursor = "",
    ) -> Page[JobItem]:
        """The items of a job in their order, with the results so far."""
        position = self.cursors.position(cursor)
        items, following = await self.runner.items(job_id, call, state=state, limit=limit, cursor=position)
        return Page(items=list(items), next_cursor=self.cursors.sign(following) if following else None)

    @post("/{job_id}/cancel")
    async def cancel(self, job_id: JobId, call: Call) -> Job:
        """End a job: what runs is stopped, what waits is not done. A finished one stays as it is."""
        return await self.runner.cancel(job_id, call)

    @post("/{job_id}/pause", raises=(Conflict,))
    async def pause(self, job_id: JobId, call: Call) -> Job:
        """Hold a job: what runs is stopped and waits again."""
        return await self.runner.pause(job_id, call)

    @post("/{job_id}/resume")
    async def resume(self, job_id: JobId, call: Call) -> Job:
        """Let a paused job go on."""
        return await self.runner.resume(job_id, call)

    @post("/{job_id}/retry", raises=(Conflict, ScopeMissing))
    async def retry(self, job_id: JobId, call: Call) -> Job:
        """Do the failed and cancelled items again.

        That is new work, so the key needs the scope of the service that does it. Items that were refused as invalid
        stay so: correct them and submit them anew.
        """
        service = (await self.runner.find(job_id, call)).kind.partition(".")[0]
        if not call.principal.may(service):
            raise ScopeMissing(f"The key needs the scope {service}.")
        return await self.runner.retry(job_id, call)

    @get("/{job_id}/events", events=EVENTS, raises=(InvalidEventId,))
    async def events(
        self,
        job_id: JobId,
        call: Call,
        after: Annotated[int, Query(ge=0, le=MAX_ID, description="Id of the last event that arrived.")] = 0,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)] = None,
    ) -> EventStreamResponse:
        """What happens to a job, from its beginning or behind an event, until it has finished.

        It can be gone on with at any time while the job is kept, also after a restart of the server: with
        `Last-Event-ID`, which wins, or `after`. Then it begins with a snapshot under that same id.
        """
        known = after if last_event_id is None else event_id(last_event_id)
        return self.create_streaming_response(self.runner.events(job_id, call, known), call, after=known)
