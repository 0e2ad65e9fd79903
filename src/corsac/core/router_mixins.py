"""What routers share besides marks: limits by cost, and uploads that go straight to disk.

Mixins add methods, never memory: state lives in the objects that the constructor was given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from corsac.core.call import Call
from corsac.core.http.multipart import Form, read_form
from corsac.core.load.rate_limiter import Decision, Limit, RateLimiter

if TYPE_CHECKING:
    from starlette.requests import Request

    from corsac.core.service import ServiceContext


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
