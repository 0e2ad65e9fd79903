"""The same stream as a service of Corsac, behind all layers: `python -m benchmarks.streams_corsac PORT FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query

from corsac.core.base_router import BaseServiceRouter, get
from corsac.core.call import Call
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.health_checks import Check
from corsac.core.plugins import Plugin, PluginView
from corsac.core.service import Part, ServiceContext, ServiceSpec
from corsac.core.streaming_mixin import EventStreamResponse, StreamingResponseMixin
from corsac.core.streams.event import Event
from corsac.main import assemble, serve_corsac
from corsac.settings import Settings


class Words(Part):
    def __init__(self, context: ServiceContext) -> None:
        self.context = context

    async def check(self) -> Sequence[Check]:
        return []

    async def say(self, n_words: int) -> AsyncIterator[Event]:
        for n in range(1, n_words + 1):
            yield Event("token", {"text": " word", "n": n})


class WordsRouter(StreamingResponseMixin, BaseServiceRouter[Words]):
    """Says words."""

    service_name = "words"

    @get("/stream", events={"token": dict[str, Any]})
    async def stream(self, n: Annotated[int, Query(ge=1)], call: Call) -> EventStreamResponse:
        """Say some words."""
        return self.create_sse_response(self.manager.say(n), call)


WORDS = ServiceSpec("words", Words, WordsRouter, ServiceConfigModel)

if __name__ == "__main__":
    settings = Settings(port=int(sys.argv[1]), data_directory=Path(sys.argv[2]), starter="none", log_format="json")
    corsac = assemble(settings)
    view = PluginView(group="corsac.services", name="words", target="benchmarks", distribution="", version="")
    corsac.take_in([Plugin(view, WORDS)])
    serve_corsac(corsac)
