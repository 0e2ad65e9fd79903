"""A whole server in this process: every layer, service and engine, and no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import structlog
from starlette.routing import WebSocketRoute

from corsac.core.base_router import StrictRoute
from corsac.core.http.application import Application
from corsac.core.plugins import ENGINES, SERVICES, Plugin, PluginView
from corsac.core.service import EngineContext, Part, ServiceSpec
from corsac.main import Corsac, assemble
from corsac.settings import Settings


@dataclass(frozen=True)
class Running:
    """A server that has started.

    Args:
        corsac: Its parts.
        app: The ASGI application.
        owner: A client with the owner's token.
        nobody: A client without a credential.
    """

    corsac: Corsac
    app: Application
    owner: httpx.AsyncClient
    nobody: httpx.AsyncClient

    @property
    def routes(self) -> list[StrictRoute]:
        """Everything but sockets that is mounted; anything else than our own kind of route is an error."""
        foreign = [each for each in self.app.router.routes if not isinstance(each, StrictRoute | WebSocketRoute)]
        assert not foreign
        return [route for route in self.app.router.routes if isinstance(route, StrictRoute)]

    async def client_with(self, *scopes: str) -> httpx.AsyncClient:
        """A client with a new key of these scopes."""
        _, secret = await self.corsac.identity.create_key("alice", "a test's", scopes)
        return client_of(self.app, {"authorization": f"Bearer {secret}"})


def method_of(route: StrictRoute) -> str:
    """The method of a route; each of ours has one."""
    [method] = list(route.methods or ())
    return method


def client_of(app: Application, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """A client of an application in this process. An exception that the crash guard lets out fails the test."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers, timeout=30
    )


@asynccontextmanager
async def running(
    folder: Path,
    *,
    services: Iterable[ServiceSpec] = (),
    engines: Iterable[tuple[str, str, Callable[[EngineContext], Part]]] = (),
    **settings: Any,
) -> AsyncIterator[Running]:
    """Start a server on an empty data directory, and stop it.

    Args:
        folder: The data directory.
        services: Services besides the installed ones.
        engines: Kind, name and class of engines besides the installed ones.
        settings: Settings of the server.
    """
    chosen = {"starter": "none", "log_format": "json", "log_level": "warning", **settings}
    corsac = assemble(Settings(data_directory=folder, **chosen))
    corsac.take_in([engine_plugin(*each) for each in engines])
    corsac.take_in([plugin_of(each) for each in services])
    app = corsac.application()
    try:
        async with app.router.lifespan_context(app):
            nobody = client_of(app)
            owner = client_of(app, {"authorization": f"Bearer {corsac.identity.token}"})
            yield Running(corsac, app, owner, nobody)
    finally:
        structlog.reset_defaults()


def plugin_of(spec: ServiceSpec) -> Plugin:
    """A service as discovery would hand it over."""
    view = PluginView(group=SERVICES, name=spec.name, target="", distribution="tests", version="")
    return Plugin(view, spec)


def engine_plugin(kind: str, name: str, engine: Callable[[EngineContext], Part]) -> Plugin:
    """An engine as discovery would hand it over."""
    view = PluginView(group=f"{ENGINES}{kind}", name=name, target="", distribution="tests", version="")
    return Plugin(view, engine)
