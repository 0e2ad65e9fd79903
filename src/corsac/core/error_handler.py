"""From any exception to the one to raise: translate, count, log, recover."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from corsac.core.exceptions import (
    CorsacError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ServiceUnavailable,
    error_classes,
)
from corsac.core.recovery import FallbackChain, Served

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger
    from corsac.core.metrics import Metrics

T = TypeVar("T")


class ServiceErrorHandler:
    """The error desk of one service.

    Its methods return the exception to raise, so that the caller's `raise … from error` keeps the cause:

        raise self.errors.handle_service_error("chat", error) from error

    Args:
        service: The service's name.
        logger: Gets one line for every error that was not foreseen, with the traceback from 500 on.
        metrics: Counts errors and recoveries.
    """

    def __init__(self, service: str, logger: Logger, metrics: Metrics) -> None:
        self.service = service
        self.logger = logger
        self.metrics = metrics

    def handle_service_error(self, operation: str, error: Exception, status_code: int | None = None) -> CorsacError:
        """The exception to raise for `error`.

        Args:
            operation: The operation that failed.
            error: What it raised. An error of ours comes back unchanged and unlogged.
            status_code: The status to answer with where the error is not ours: its general class is taken.

        Returns:
            An error of ours. Nothing of a foreign exception's text is in it.
        """
        if isinstance(error, CorsacError):
            self.metrics.error(self.service, operation, error.reason)
            return error
        translated = self._translate(error, status_code)
        self.metrics.error(self.service, operation, translated.reason)
        traceback = error if translated.status >= 500 else None
        self.logger.error("operation failed", operation=operation, reason=translated.reason, exc_info=traceback)
        return translated

    def handle_service_unavailable(self, service_name: str, detail: str = "", hint: str | None = None) -> CorsacError:
        """The exception to raise where the service is not running.

        Args:
            service_name: The service, named in the answer.
            detail: Why it is not running.
            hint: What starts it.
        """
        self.metrics.error(self.service, "", ServiceUnavailable.reason)
        detail = detail or f"The service {service_name} is not running."
        return ServiceUnavailable(detail, hint=hint, retry_after_s=5)

    async def first_that_works(
        self, operation: str, candidates: Sequence[tuple[str, Callable[[], Awaitable[T]]]]
    ) -> Served[T]:
        """Call the candidates in order until one answers; the result says which did.

        Args:
            operation: For metrics and the log.
            candidates: Pairs of a name and the function that asks it.

        Raises:
            CorsacError: The last candidate's error, when none answered.
        """
        served = await FallbackChain(candidates).call()
        for name, error in served.failures:
            reason = getattr(error, "reason", type(error).__name__)
            self.logger.warning(
                "fell back", operation=operation, failed=name, reason=reason, served_by=served.served_by
            )
            self.metrics.recovery(self.service, "fallback", "recovered")
        return served

    @staticmethod
    def _translate(error: Exception, status_code: int | None) -> CorsacError:
        if status_code is not None:
            return general_class(status_code)()
        if isinstance(error, TimeoutError):
            return DeadlineExceeded()
        return InternalError()


def general_class(status: int) -> type[CorsacError]:
    """The most general error class of an HTTP status, for example `Invalid` for 422; never one of a service."""
    fallback = InvalidRequest if 400 <= status < 500 else InternalError
    general = (each for each in error_classes() if each.__module__ == CorsacError.__module__)
    return next((each for each in general if each.status == status), fallback)
