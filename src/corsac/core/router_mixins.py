"""What routers share besides marks: limits by cost, uploads that go straight to disk, and batches that become jobs.

Mixins add methods, never memory: state lives in the objects that the constructor was given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from corsac.core.call import Call
from corsac.core.http.multipart import Form, read_form
from corsac.core.jobs.batch import Batch
from corsac.core.jobs.job import BatchTooLarge, Job, Priority
from corsac.core.load.rate_limiter import Decision, Limit, RateLimiter

if TYPE_CHECKING:
    from starlette.requests import Request

    from corsac.core.service import ServiceContext

BATCH_ERRORS = (BatchTooLarge,)


class RateLimitingMixin:
    """Limits by what a call costs, on the same limiter as the limits per call."""

    limiter: RateLimiter

    def limit_cost(self, unit: str, cost: float, limit: Limit, call: Call) -> Decision:
        """Take `cost` from the caller's allowance of `unit`; the answer's headers tell what is left.

        Args:
            unit: What is counted, for example `characters`.
            cost: How much this call takes, 0 or more.
            limit: The allowance.
            call: Whose allowance.

        Raises:
            RateLimited: It is used up; Retry-After says until when.
        """
        decision = self.limiter.require(unit, f"{unit}:{call.principal.key_id}", limit, cost)
        call.headers += decision.headers(unit)
        return decision


class FileUploadMixin:
    """Reads multipart uploads itself, onto the data directory's disk, for routes marked `upload=True`.

    The framework would spool the whole form first, before anything could be refused.
    """

    context: ServiceContext

    @asynccontextmanager
    async def receive_form(self, request: Request, *, max_file_bytes: int) -> AsyncIterator[Form]:
        """The form of an upload; its files are gone when the block ends.

        Args:
            request: The request; its body has not been read.
            max_file_bytes: Size of the largest file.

        Raises:
            MultipartInvalid, TooManyFields, BodyTooLarge, StorageFull: As they say.
        """
        form = Form()
        try:
            await read_form(request, form, self.context.uploads, max_file_bytes=max_file_bytes)
            yield form
        finally:
            form.remove_files()


class BatchMixin:
    """Batches that become jobs. The work is registered in the service's manager, `context.jobs.register(kind, …)`.

    @post("/greet/batch", status=202, max_body_bytes=16 << 20, raises=BATCH_ERRORS)
    async def greet_many(self, body: Batch[GreetRequest], call: Call) -> Job:
        return await self.submit_batch("greeting.greet", body, call)
    """

    context: ServiceContext

    async def submit_batch(
        self,
        kind: str,
        body: Batch[Any],
        call: Call,
        *,
        priority: Priority = "batch",
        detail: Mapping[str, Any] | None = None,
    ) -> Job:
        """Submit a batch; the answer's Location is the job's.

        Args:
            kind: The work; named `<service>.<operation>`, because doing it again needs the service's scope.
            body: The requests; those that are not valid become failed items.
            call: Whose job it is.
            priority: `interactive` goes before `batch`.
            detail: Handed to the work with every item.

        Raises:
            BatchTooLarge: More than 10,000 items.
        """
        jobs, refused = self.context.jobs, body.refused()
        job = await jobs.submit(kind, body.inputs(), call=call, priority=priority, detail=detail, refused=refused)
        call.headers.append((b"location", job.url.encode()))
        return job
