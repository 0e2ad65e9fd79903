"""A service for tests, installed like anybody's: streams that count, flood, fail and rest, and a socket that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import Field

from corsac.core.base_router import BaseServiceRouter, get, post, websocket
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.config_mixin import ConfigEndpointMixin
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.exceptions import Conflict
from corsac.core.health_checks import Check
from corsac.core.service import Part, ServiceContext, ServiceSpec
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin
from corsac.core.streams.event import Event
from corsac.core.streams.websocket import Socket


class Drops(RequestBody):
    """What a stream is to be."""

    n: int = Field(10, ge=0, le=10**9, description="Events.")
    pause_ms: float = Field(0, ge=0, le=60_000, description="Pause before every event; 0: it never awaits.")
    size: int = Field(1, ge=1, le=100_000, description="Characters in each event.")
    fails: bool = Field(False, description="Whether it fails at the end.")
    lossy: bool = Field(False, description="Whether slow readers miss events.")


class Tally(Reply):
    """What became of the streams."""

    running: int
    finished: int


class Number(Reply):
    """One event."""

    n: int
    filling: str


class FountainConfigModel(ServiceConfigModel):
    """Settings of the fountain."""


class Fountain(Part):
    """Produces events."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context
        self.running = self.finished = 0

    async def check(self) -> Sequence[Check]:
        return [Check("fountain:wet", "pass")]

    async def flow(self, drops: Drops) -> AsyncIterator[Event]:
        self.running += 1
        try:
            for n in range(1, drops.n + 1):
                if drops.pause_ms:
                    await asyncio.sleep(drops.pause_ms / 1000)
                yield Event("number", {"n": n, "filling": "x" * drops.size})
            if drops.fails:
                raise Conflict("The fountain is dry.")
        finally:
            self.running -= 1
            self.finished += 1


class FountainRouter(ConfigEndpointMixin, StreamingResponseMixin, BaseServiceRouter[Fountain]):
    """Streams of every kind."""

    service_name = "fountain"
    config_model = FountainConfigModel

    @post("/flow", events={"number": Number})
    async def flow(self, body: Drops, call: Call) -> EventStreamResponse:
        """Count."""
        return self.create_streaming_response(self.manager.flow(body), call, lossless=not body.lossy)

    @post("/publish")
    async def publish(self, body: Drops) -> dict[str, int]:
        """Publish events."""
        for n in range(body.n):
            self.context.events.publish("drop", "fountain", {"n": n})
        await self.context.events.flush()
        return {"n": body.n}

    @get("/tally")
    async def tally(self) -> Tally:
        """How many producers run."""
        return Tally(running=self.manager.running, finished=self.manager.finished)

    @websocket("/echo/{room}")
    async def echo(self, socket: Socket, call: Call, room: str) -> None:
        """Say everything back."""
        async for text in socket:
            content: dict[str, Any] = {"room": room, "who": call.principal.id, "text": text}
            await socket.send(Event("echo", content))


SERVICE = ServiceSpec("fountain", Fountain, FountainRouter, FountainConfigModel)
