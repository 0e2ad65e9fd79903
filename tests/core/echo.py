"""A service of a stranger's making, and the layers that it is mounted behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, cast

import httpx
from fastapi import FastAPI, Path, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from pydantic import Field
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp
from structlog.testing import LogCapture
from tests.conftest import Clock, client_behind_guard, logger_into

from corsac.core.base_router import BaseServiceRouter, delete, get, post, put
from corsac.core.bodies import Reply, RequestBody
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CircuitOpen, Conflict, InvalidCursor, InvalidId, Unauthenticated
from corsac.core.health_checks import Check, HealthMonitor
from corsac.core.http.authentication import AuthenticationLayer
from corsac.core.http.crash_guard import OpenStreams
from corsac.core.http.openapi import PROBLEM_SCHEMA, openapi_document
from corsac.core.identity import PUBLIC, Identity, Principal
from corsac.core.load.rate_limiter import CostTooLarge, Limit, RateLimiter
from corsac.core.logging_middleware import LoggingMiddleware
from corsac.core.metrics import Metrics
from corsac.core.paging import CursorSigner, Page, PageCursor, PageLimit
from corsac.core.router_mixins import FileUploadMixin, RateLimitingMixin
from corsac.core.service import Part, ServiceContext
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry
from corsac.core.validation import refused_as
from corsac.middleware.input_validation_middleware import InputValidationMiddleware

EchoId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]
ECHO = {"Authorization": "Bearer echo"}
JSON = {**ECHO, "Content-Type": "application/json"}


class EchoRequest(RequestBody):
    """What to say back."""

    text: str = Field(max_length=100)
    temperature: float = Field(0.5, ge=0, le=2)
    times: int = 1
    loud: bool = False


class Echo(Reply):
    """What was said."""

    text: str
    request_id: str
    loudness_lufs: float | None = None


class EchoConfig(RequestBody):
    """How to say it."""

    pitch: int = 1


class SlowEchoConfig(RequestBody):
    """How slowly to say it."""

    delay_s: float = 0.0


class EchoManager(Part):
    """Does what the test asks."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.error: Exception | None = None
        self.cancelled = False

    async def check(self) -> Sequence[Check]:
        return ()

    async def echo(self, text: str, call: Call) -> Echo:
        self.n_calls += 1
        if self.error:
            raise self.error
        return Echo(text=text, request_id=call.request_id, loudness_lufs=float("nan"))

    async def sleep(self, call: Call) -> Echo:
        try:
            await asyncio.sleep(call.remaining_s() + 60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


class EchoRouter(FileUploadMixin, RateLimitingMixin, BaseServiceRouter[EchoManager]):
    """Echoes."""

    service_name = "echo"
    config_model: type[RequestBody] = EchoConfig

    @post("/echo", raises=(CircuitOpen, Conflict))
    async def echo(self, body: EchoRequest, call: Call) -> Echo:
        """Say it back.

        Once.
        """
        return await self.manager.echo(body.text, call)

    @post("/rarely", per_minute=2, max_body_bytes=1000)
    async def rarely(self, body: EchoRequest, call: Call) -> Echo:
        """Say it back now and then."""
        return await self.manager.echo(body.text, call)

    @post("/either", produces=("application/json", "text/*"))
    async def either(self, body: EchoRequest, call: Call) -> Echo | PlainTextResponse:
        """Say it back as data or as text."""
        if call.media_type == "text/*":
            return PlainTextResponse(body.text)
        return await self.manager.echo(body.text, call)

    @post("/sleep", timeout_s=0.1)
    async def sleep(self, call: Call) -> Echo:
        """Say nothing for too long."""
        return await self.manager.sleep(call)

    @post("/costly", raises=(CostTooLarge,))
    async def costly(self, body: EchoRequest, call: Call) -> Echo:
        """Say it back by weight."""
        self.limit_cost("characters", len(body.text), Limit(10, 10), call)
        return await self.manager.echo(body.text, call)

    @get("/echoes", raises=(InvalidCursor,))
    async def echoes(
        self, call: Call, limit: PageLimit = 50, cursor: PageCursor = "", order: Literal["up", "down"] = "up"
    ) -> Page[str]:
        """What was said before."""
        return Page(
            items=[self.context.cursors.position(cursor), order], next_cursor=self.context.cursors.sign(str(limit))
        )

    @get("/echoes/{echo_id}")
    async def one(self, echo_id: EchoId) -> list[str]:
        """One of them."""
        return [echo_id]

    @delete("/echoes/{echo_id}", status=204)
    async def forget(self, echo_id: EchoId) -> Response:
        """Forget one."""
        return Response(status_code=204)

    @put("/settings", scope="admin", body="config_model")
    async def configure(self, body: RequestBody) -> dict[str, Any]:
        """Change how it is said."""
        return {type(body).__name__: body.model_dump()}

    @post("/upload", upload=True, max_body_bytes=2000)
    async def upload(self, request: Request) -> dict[str, int]:
        """How large the files are."""
        async with self.receive_form(request, max_file_bytes=1000) as form:
            return {name: file.size_bytes for name, file in form.files.items()}

    @get("/hello", scope=PUBLIC)
    async def hello(self) -> dict[str, str]:
        """Greet everybody."""
        return {"hello": "world"}


class SlowEchoRouter(EchoRouter):
    """Echoes slowly, and never by weight."""

    service_name = "slow"
    scope = "slow"
    tag = "slow"
    config_model = SlowEchoConfig

    async def costly(self, body: EchoRequest, call: Call) -> Echo:
        raise AssertionError


class Bare(FastAPI):
    """FastAPI without its own middleware."""

    def __init__(self, *layers: Callable[[ASGIApp], ASGIApp]) -> None:
        super().__init__(openapi_url=None, docs_url=None, redirect_slashes=False)
        self.layers = layers

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = AsyncExitStackMiddleware(self.router)
        for layer in reversed(self.layers):
            app = layer(app)
        return app


class Doorman:
    """Knows callers by name: a bearer token is the name of its only scope."""

    def by_secret(self, secret: str) -> Principal:
        if not secret:
            raise Unauthenticated
        return Principal("alice", f"key-{secret}", frozenset({secret}))


@dataclass
class World:
    """The service and its surroundings."""

    client: httpx.AsyncClient
    manager: EchoManager
    registry: ServiceRegistry
    metrics: Metrics
    log: LogCapture
    clock: Clock
    openapi: dict[str, Any]
    uploads: FilePath

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        options.setdefault("headers", JSON)
        return await self.client.post(path, **({} if body is None else {"json": body}), **options)

    def refused(self, answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
        """The problem of a refusal, after checking that it is whole and that the operation's documentation has it."""
        problem: dict[str, Any] = answer.json()
        assert (answer.status_code, problem["reason"], problem["status"]) == (status, reason, status), problem
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(problem) == set(PROBLEM_SCHEMA["properties"])
        assert problem["request_id"] == answer.headers["x-request-id"]
        if problem["operation"]:
            operations = [each for path in self.openapi["paths"].values() for each in path.values()]
            operation_id = f"{problem['service']}_{problem['operation']}"
            [documented] = [each["responses"] for each in operations if each["operationId"] == operation_id]
            assert reason in documented[str(status)]["content"]["application/problem+json"]["examples"]
        return problem

    def counted(self) -> dict[str, float]:
        """How often each error was counted."""
        samples = [each for family in self.metrics.registry.collect() for each in family.samples]
        return {str(each.labels): each.value for each in samples if each.name == "corsac_errors_total"}


def stage(uploads: FilePath) -> World:
    """The service, mounted behind the layers and not started."""
    metrics, registry, manager, log, clock = Metrics(), ServiceRegistry(), EchoManager(), LogCapture(), Clock()
    logger, limiter = logger_into(log), RateLimiter(clock, lambda: 0.0)
    errors = ServiceErrorHandler("", logger, metrics)
    app = Bare(
        lambda app: LoggingMiddleware(app, logger=logger, metrics=metrics, errors=errors),
        InputValidationMiddleware,
        lambda app: AuthenticationLayer(app, cast(Identity, Doorman())),
    )
    for router_class in (EchoRouter, SlowEchoRouter):
        name = router_class.service_name
        registry.register(Entry(name, SERVICE, manager))
        context = ServiceContext(
            name,
            config=cast(Any, None),
            registry=registry,
            artifacts=cast(Any, None),
            uploads=uploads,
            errors=ServiceErrorHandler(name, logger, metrics),
            limiter=limiter,
            health=HealthMonitor(registry, Metrics(), logger),
            cursors=CursorSigner(b"secret"),
            logger=logger,
            streams=cast(Any, None),
            events=cast(Any, None),
            jobs=cast(Any, None),
        )
        router = router_class(manager, context)
        app.router.routes.extend(router.routes())
    openapi = openapi_document("Echo", "1", "Echoes.", app.routes)
    client = client_behind_guard(app, logger, OpenStreams())
    return World(client, manager, registry, metrics, log, clock, openapi, uploads)
