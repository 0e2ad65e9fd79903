"""Recent log lines, and levels."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from corsac.core.base_router import BaseRouter, get, put
from corsac.core.bodies import Reply, RequestBody
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import InvalidChoice
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.log_store import LogStore
from corsac.core.logging_config import LogSink


class LogLines(Reply):
    """Recent log lines, newest last."""

    lines: list[dict[str, Any]]
    dropped: int = Field(description="Lines that were lost because the disk or the reader was too slow.")


class LevelChange(RequestBody):
    """A level for one service."""

    service: str = Field(
        max_length=64,
        pattern=r"^[a-z0-9_.:-]+$",
        description="A service's name, or `root` for all.",
        examples=["tts"],
    )
    level: str = Field(max_length=16, description="debug, info, warning or error.", examples=["debug"])


class LogsRouter(BaseRouter):
    """Queries the log and changes its levels."""

    prefix = "/api/admin"
    tag = "logs"

    def __init__(self, errors: ServiceErrorHandler, limiter: RateLimiter, *, store: LogStore, sink: LogSink) -> None:
        super().__init__(errors, limiter)
        self.store = store
        self.sink = sink

    @get("/logs", while_down=True, raises=(InvalidChoice,))
    async def query(
        self,
        service: Annotated[str | None, Query(max_length=64)] = None,
        level: Annotated[str | None, Query(max_length=16, description="Least level.")] = None,
        since: Annotated[datetime | None, Query(description="RFC 3339 time.")] = None,
        q: Annotated[str | None, Query(max_length=200, description="Text that a line contains.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> LogLines:
        """Recent lines, newest last."""
        lines = self.store.query(service=service, level=level, since=since, q=q, limit=limit)
        return LogLines(lines=lines, dropped=self.sink.dropped)

    @get("/logs/levels", while_down=True)
    async def levels(self) -> dict[str, str]:
        """The least level that each service logs."""
        return self.sink.levels()

    @put("/logs/levels", while_down=True, raises=(InvalidChoice,))
    async def set_level(self, body: LevelChange) -> dict[str, str]:
        """Change a level until the next start."""
        self.sink.set_level(body.service, body.level)
        return self.sink.levels()
