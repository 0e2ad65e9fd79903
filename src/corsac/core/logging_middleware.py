"""One line and one count for every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import CorsacError
from corsac.core.http.crash_guard import CALL
from corsac.core.http.problem import from_framework

if TYPE_CHECKING:
    from corsac.core.error_handler import ServiceErrorHandler
    from corsac.core.logging_config import Logger
    from corsac.core.metrics import Metrics

CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before its answer; never sent


class LoggingMiddleware:
    """Logs and counts every request; below it exceptions are anybody's, above it they are ours.

    Args:
        app: The layers below.
        logger: Gets one line a request: info, warning from 500 on, with method, path, status, duration, outcome.
        metrics: Counts requests by outcome.
        errors: Translates what is neither ours nor the framework's, and logs its traceback.
        monotonic: Seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: Logger,
        metrics: Metrics,
        errors: ServiceErrorHandler,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.logger = logger.bind()  # bound once: binding at every request costs a third of the line
        self.metrics = metrics
        self.errors = errors
        self.monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        call: Call = scope[CALL]
        began = self.monotonic()
        outcome = "ok"
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            outcome, call.status = "cancelled", CLIENT_CLOSED_REQUEST
            raise
        except Exception as error:
            # An error of ours was counted where it was raised; here its request is, by its reason.
            known = error if isinstance(error, CorsacError) else from_framework(error)
            ours = known or self.errors.handle_service_error(call.operation, error)
            call.status, call.reason = ours.status, ours.reason
            outcome = ours.reason
            if ours is error:
                raise
            raise ours from error
        finally:
            self._report(scope, call, outcome, self.monotonic() - began)

    def _report(self, scope: Scope, call: Call, outcome: str, seconds: float) -> None:
        self.metrics.request(call.service, call.operation, outcome, seconds)
        log = self.logger.warning if call.status >= 500 else self.logger.info
        log(
            "request",
            method=scope.get("method", "WEBSOCKET"),
            path=scope["path"],
            status=call.status,
            duration_ms=round(seconds * 1000, 2),
            outcome=outcome,
            reason=call.reason or None,
            service=call.service or None,
            **dict(call.log_context()),
            peer=call.peer,
            sent_bytes=call.sent_bytes,
        )
