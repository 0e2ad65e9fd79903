"""Is it alive, is it ready, how is it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from starlette.responses import Response

from corsac.core.base_router import BaseRouter, get
from corsac.core.bodies import Reply
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import ServiceNotFound, ServiceUnavailable
from corsac.core.health_checks import HealthMonitor, HealthReport, HealthSample
from corsac.core.identity import ANY, PUBLIC
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.metrics import Metrics


class Alive(Reply):
    """The answer of a probe that passes."""

    status: Literal["pass"] = "pass"


class Readiness:
    """Whether the server has started, and whether it takes work."""

    def __init__(self) -> None:
        self.started = False
        self.draining = False


class HealthRouter(BaseRouter):
    """Probes, the health of everything, and metrics."""

    tag = "health"
    scope = ANY

    def __init__(
        self,
        errors: ServiceErrorHandler,
        limiter: RateLimiter,
        *,
        monitor: HealthMonitor,
        readiness: Readiness,
        metrics: Metrics,
    ) -> None:
        super().__init__(errors, limiter)
        self.monitor = monitor
        self.readiness = readiness
        self.metrics = metrics

    @get("/livez", scope=PUBLIC, while_down=True)
    async def livez(self) -> Alive:
        """Whether the process and its event loop run."""
        return Alive()

    @get("/startupz", scope=PUBLIC, while_down=True, raises=(ServiceUnavailable,))
    async def startupz(self) -> Alive:
        """Whether every service has been started or has said why not."""
        if not self.readiness.started:
            raise ServiceUnavailable("The server is starting.", retry_after_s=1)
        return Alive()

    @get("/readyz", scope=PUBLIC, while_down=True, raises=(ServiceUnavailable,))
    async def readyz(self) -> Alive:
        """Whether the server takes work: it has started, is not shutting down, and can store."""
        if not self.readiness.started or self.readiness.draining:
            doing = "shutting down" if self.readiness.draining else "starting"
            raise ServiceUnavailable(f"The server is {doing}.", retry_after_s=5)
        if await self.monitor.storage_fails():
            raise ServiceUnavailable("The server cannot store anything.", retry_after_s=5)
        return Alive()

    @get("/api/health", while_down=True)
    async def health(self) -> HealthReport:
        """The health of all services, engines and stores."""
        return await self.monitor.aggregate()

    @get("/api/health/history", while_down=True, raises=(ServiceNotFound,))
    async def history(self, part: Annotated[str, Query(max_length=64)]) -> list[HealthSample]:
        """The last samples of one part, oldest first."""
        self.monitor.registry.get(part)
        return self.monitor.history(part)

    @get("/metrics", while_down=True, produces=("text/plain",))
    async def prometheus(self) -> Response:
        """All metrics in Prometheus' text format."""
        return Response(self.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
