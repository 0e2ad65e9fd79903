"""The same endpoint as a service of Corsac, behind all layers: `python -m benchmarks.echo_corsac PORT FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from corsac.core.base_router import BaseServiceRouter, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.config_store import ServiceConfigModel
from corsac.core.health_checks import Check
from corsac.core.plugins import Plugin, PluginView
from corsac.core.service import Part, ServiceContext, ServiceSpec
from corsac.main import assemble, serve_corsac
from corsac.settings import Settings


class Message(RequestBody):
    text: str = Field(max_length=10_000)
    count: int


class Echoed(Reply):
    text: str
    count: int


class EchoConfig(ServiceConfigModel):
    """Nothing can be set."""


class EchoManager(Part):
    def __init__(self, context: ServiceContext) -> None:
        self.context = context

    async def check(self) -> Sequence[Check]:
        return []


class EchoRouter(BaseServiceRouter[EchoManager]):
    """Says what it hears."""

    service_name = "echo"

    @post("/echo", per_minute=10_000_000)
    async def echo(self, body: Message) -> Echoed:
        """Say it again."""
        return Echoed(text=body.text, count=body.count)


ECHO = ServiceSpec("echo", EchoManager, EchoRouter, EchoConfig)

if __name__ == "__main__":
    settings = Settings(port=int(sys.argv[1]), data_directory=Path(sys.argv[2]), starter="none", log_format="json")
    corsac = assemble(settings)
    view = PluginView(group="corsac.services", name="echo", target="benchmarks", distribution="", version="")
    corsac.take_in([Plugin(view, ECHO)])
    serve_corsac(corsac)
