"""Which services and engines there are, and their lives."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from corsac.core.base_router import BaseRouter, get, post
from corsac.core.bodies import Reply
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import HasDependents, InvalidId, ServiceNotFound
from corsac.core.identity import ADMIN, ANY
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.plugins import PluginView
from corsac.core.service_initializers import ServiceInitializer
from corsac.core.service_registry import PartStatus, ServiceRegistry
from corsac.core.validation import refused_as

PartName = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}(:[a-z0-9_-]{1,64})?$"), refused_as(InvalidId)]
FAILED = "It failed; the owner of the server can see why."


class RegistryView(Reply):
    """Everything that is registered, and the plugins it came from."""

    parts: list[PartStatus]
    plugins: list[PluginView]


class Edge(Reply):
    """One part needs another."""

    part: str
    needs: str


class GraphView(Reply):
    """Who needs whom, and an order in which all can start."""

    edges: list[Edge]
    start_order: list[str]


class RegistryRouter(BaseRouter):
    """Lists parts and starts, stops and restarts them."""

    prefix = "/api/registry"
    tag = "registry"

    def __init__(
        self,
        errors: ServiceErrorHandler,
        limiter: RateLimiter,
        *,
        registry: ServiceRegistry,
        initializer: ServiceInitializer,
        plugins: list[PluginView],
    ) -> None:
        super().__init__(errors, limiter)
        self.registry = registry
        self.initializer = initializer
        self.plugins = plugins

    @get("", scope=ANY, while_down=True)
    async def list_parts(self, call: Call) -> RegistryView:
        """All services, engines and plugins. Why a plugin failed is a traceback, and for the owner alone."""
        plugins = self.plugins
        if not call.principal.may(ADMIN):
            plugins = [each.model_copy(update={"error": each.error and FAILED}) for each in plugins]
        return RegistryView(parts=[self.registry.status(each) for each in self.registry], plugins=plugins)

    @get("/graph", scope=ANY, while_down=True)
    async def graph(self) -> GraphView:
        """Who needs whom."""
        edges = [
            Edge(part=each.name, needs=other.name) for each in self.registry for other in self.registry.needed_by(each)
        ]
        return GraphView(edges=edges, start_order=[each.name for each in self.registry.start_order()])

    @get("/{name}", scope=ANY, while_down=True, raises=(ServiceNotFound,))
    async def show(self, name: PartName) -> PartStatus:
        """One part."""
        return self.registry.status(self.registry.get(name))

    @post("/{name}/start", while_down=True, raises=(ServiceNotFound,), timeout_s=90)
    async def start(self, name: PartName) -> PartStatus:
        """Start a part; the answer is its state after the first try."""
        await self.initializer.start(name)
        return self.registry.status(self.registry.get(name))

    @post("/{name}/stop", while_down=True, raises=(ServiceNotFound, HasDependents))
    async def stop(self, name: PartName) -> PartStatus:
        """Stop a part that no working part needs."""
        self.registry.check_stoppable(name)
        await self.initializer.stop(name)
        return self.registry.status(self.registry.get(name))

    @post("/{name}/restart", while_down=True, raises=(ServiceNotFound,), timeout_s=90)
    async def restart(self, name: PartName) -> PartStatus:
        """Stop a part and start it again; parts that need it stay and wait."""
        await self.initializer.restart(name)
        return self.registry.status(self.registry.get(name))
