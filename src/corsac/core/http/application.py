"""FastAPI without its middleware, and with a router that finds most routes at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.routing import BaseRoute, Match, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from corsac.core.base_router import StrictRoute
from corsac.core.exceptions import NotFound


class Application(FastAPI):
    """FastAPI with our layers instead of its own: every exception comes out at the outermost of them, unrendered.

    Args:
        routes: All routes, in the order in which they are tried.
        layers: From the outermost in; each takes the app below it.
        options: As for FastAPI.
    """

    def __init__(
        self,
        routes: Sequence[StrictRoute | WebSocketRoute],
        layers: Sequence[Callable[[ASGIApp], ASGIApp]],
        **options: Any,
    ) -> None:
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, **options)
        self.router.routes.extend(routes)
        self.router.default = nowhere
        self.layers = layers

    def build_middleware_stack(self) -> ASGIApp:
        """Our layers around the router."""
        app: ASGIApp = AsyncExitStackMiddleware(FixedPaths(self.router, self.router.routes))
        for layer in reversed(self.layers):
            app = layer(app)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Straight into the layers: FastAPI's telemetry would look up the environment at every request."""
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


async def nowhere(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answers where no route is; the router's own would close a WebSocket with an empty 403."""
    raise NotFound


class FixedPaths:
    """Finds routes without path parameters by their path; the router would try them one after the other.

    Args:
        router: Gets every other request.
        routes: Those of the router.
    """

    def __init__(self, router: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.router = router
        self.by_path: dict[str, list[StrictRoute]] = defaultdict(list)
        for route in routes:
            if isinstance(route, StrictRoute) and "{" not in route.path:
                self.by_path[route.path].append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "HEAD":
            # Answered like GET; the server below leaves the body out.
            scope = {**scope, "method": "GET"}
        for route in self.by_path.get(scope["path"], ()) if scope["type"] == "http" else ():
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                scope.update(child_scope)
                await route.handle(scope, receive, send)
                return
        await self.router(scope, receive, send)
