"""Recent log lines, and levels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from corsac.core.base_router import BaseRouter, get, put
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import InvalidChoice
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.logging_config import LogSink
from corsac.core.logs.store import LogStore
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin
from corsac.core.streams.event import Event
from corsac.core.streams.hub import StreamHub

TAIL_PAUSE_S = 0.25


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


class LogsRouter(StreamingResponseMixin, BaseRouter):
    """Queries and follows the log, and changes its levels."""

    prefix = "/api/admin"
    tag = "logs"

    def __init__(
        self, errors: ServiceErrorHandler, limiter: RateLimiter, *, store: LogStore, sink: LogSink, streams: StreamHub
    ) -> None:
        super().__init__(errors, limiter)
        self.store = store
        self.sink = sink
        self.streams = streams

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

    @get("/logs/tail", while_down=True, events={"line": dict[str, Any]}, raises=(InvalidChoice,))
    async def tail(
        self,
        call: Call,
        service: Annotated[str | None, Query(max_length=64)] = None,
        level: Annotated[str | None, Query(max_length=16, description="Least level.")] = None,
        q: Annotated[str | None, Query(max_length=200, description="Text that a line contains.")] = None,
    ) -> EventStreamResponse:
        """Lines as they are written. A slow reader misses the oldest."""
        return self.create_streaming_response(self._lines(service, level, q), call, lossless=False)

    async def _lines(self, service: str | None, level: str | None, q: str | None) -> AsyncIterator[Event]:
        known = self.store.n_added
        self.store.query(level=level, limit=0)  # refuses an unknown level before the stream begins
        yield Event("ready", {"n_lines": known})
        while True:
            await asyncio.sleep(TAIL_PAUSE_S)
            n_added = self.store.n_added
            if n_added > known:
                for line in self.store.query(service, level, q=q, limit=1000, newest=n_added - known):
                    yield Event("line", line)
                known = n_added

    @get("/logs/levels", while_down=True)
    async def levels(self) -> dict[str, str]:
        """The least level that each service logs."""
        return self.sink.levels()

    @put("/logs/levels", while_down=True, raises=(InvalidChoice,))
    async def set_level(self, body: LevelChange) -> dict[str, str]:
        """Change a level until the next start."""
        self.sink.set_level(body.service, body.level)
        return self.sink.levels()
