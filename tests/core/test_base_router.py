"""A service of a stranger's making, mounted behind the layers: what a mark promises is what a client meets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, cast

import httpx
import pytest
from fastapi import FastAPI, Path, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from pydantic import Field
from starlette.exceptions import HTTPException
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
from corsac.core.service import Part, Refused, ServiceContext
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State
from corsac.core.validation import refused_as
from corsac.middleware.input_validation_middleware import InputValidationMiddleware

EchoId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$"), refused_as(InvalidId)]
ECHO = {"Authorization": "Bearer echo"}
JSON = {**ECHO, "Content-Type": "application/json"}
SECRET = "the /secret/path of 10.0.0.1"


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
    upload_folder: FilePath

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

    @post("/sleep", timeout_s=0.02)
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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once, because its routes take time."""
    metrics, registry, manager, log, clock = Metrics(), ServiceRegistry(), EchoManager(), LogCapture(), Clock()
    logger, limiter, uploads = logger_into(log), RateLimiter(clock, lambda: 0.0), tmp_path_factory.mktemp("uploads")
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
            errors=ServiceErrorHandler(name, logger, metrics),
            limiter=limiter,
            health=HealthMonitor(registry, Metrics(), logger),
            cursors=CursorSigner(b"secret"),
            logger=logger,
        )
        router = router_class(manager, context)
        router.upload_folder = uploads
        app.router.routes.extend(router.routes())
    openapi = openapi_document("Echo", "1", "Echoes.", app.routes)
    client = client_behind_guard(app, logger, OpenStreams())
    return World(client, manager, registry, metrics, log, clock, openapi, uploads)


@pytest.fixture
def world(stage: World) -> World:
    """The stage as it was at first: all limits rested, the service running, nothing logged."""
    stage.clock.now += 3600
    stage.manager.__dict__ = EchoManager().__dict__
    stage.log.entries.clear()
    for entry in stage.registry:
        stage.registry.move(entry, State.READY)
    return stage


# What a mark promises


async def test_an_operation_answers_with_its_call_and_finite_numbers(world: World) -> None:
    answer = await world.post("/api/echo/echo", {"text": "é"}, headers={**JSON, "X-Request-Id": "my-id.7"})
    assert answer.json() == {"text": "é", "request_id": "my-id.7", "loudness_lufs": None}
    assert answer.headers["x-request-id"] == "my-id.7"


@pytest.mark.parametrize(
    ("accept", "expected"), [("*/*", "application/json"), ("text/plain", "text/plain; charset=utf-8")]
)
async def test_one_operation_answers_with_a_model_or_a_response(world: World, accept: str, expected: str) -> None:
    answer = await world.post("/api/echo/either", {"text": "hi"}, headers={**JSON, "Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, expected)


@pytest.mark.parametrize(
    ("service", "body", "expected"),
    [
        ("echo", {"pitch": 3}, {"EchoConfig": {"pitch": 3}}),
        ("slow", {"delay_s": 2.5}, {"SlowEchoConfig": {"delay_s": 2.5}}),
        ("echo", {"delay_s": 2.5}, "UNKNOWN_FIELD"),
        ("slow", {"delay_s": "2.5"}, "WRONG_TYPE"),
    ],
)
async def test_a_body_that_differs_per_class_is_validated_and_documented_per_class(
    world: World, service: str, body: Any, expected: Any
) -> None:
    headers = {"Authorization": "Bearer admin"}
    answer = await world.client.put(f"/api/{service}/settings", json=body, headers=headers)
    assert answer.json() == expected or answer.json()["reason"] == expected
    schema = world.openapi["paths"][f"/api/{service}/settings"]["put"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert schema["$ref"].endswith({"echo": "/EchoConfig", "slow": "/SlowEchoConfig"}[service])


async def test_an_override_without_a_mark_takes_the_operation_away(world: World) -> None:
    answer = await world.post("/api/slow/costly", {"text": "a"}, headers={**JSON, "Authorization": "Bearer admin"})
    world.refused(answer, 404, "NOT_FOUND")


async def test_titles_scopes_limits_and_errors_are_documented(world: World) -> None:
    operation = world.openapi["paths"]["/api/echo/rarely"]["post"]
    assert (operation["summary"], operation["tags"]) == ("Say it back now and then", ["echo"])
    assert (operation["x-corsac-scope"], operation["x-corsac-limit-per-minute"]) == ("echo", 2)
    assert (operation["x-corsac-max-body-bytes"], operation["security"]) == (1000, [{"bearer": []}])
    assert "call" not in str(operation.get("parameters", []))
    assert "security" not in world.openapi["paths"]["/api/echo/hello"]["get"]
    for response in (
        each for path in world.openapi["paths"].values() for op in path.values() for each in op["responses"].items()
    ):
        for name, example in (
            response[1].get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
        ):
            assert (example["value"]["reason"], str(example["value"]["status"])) == (name, response[0])


# The order of the checks

FAULTS = [
    (401, "UNAUTHENTICATED"),
    (403, "SCOPE_MISSING"),
    (503, "SERVICE_UNAVAILABLE"),
    (429, "RATE_LIMITED"),
    (406, "NOT_ACCEPTABLE"),
    (415, "CONTENT_ENCODING_UNSUPPORTED"),
    (415, "UNSUPPORTED_MEDIA_TYPE"),
    (413, "BODY_TOO_LARGE"),
    (422, "UNKNOWN_FIELD"),
    (400, "MALFORMED_JSON"),
]


@pytest.mark.parametrize("n_mended", range(len(FAULTS)))
async def test_of_many_faults_the_first_is_told_and_no_body_is_read_before_the_last(
    world: World, n_mended: int
) -> None:
    faults = [reason for _, reason in FAULTS[n_mended:]]
    headers = {
        "Authorization": {9: "", 10: "Bearer other"}.get(len(faults), "Bearer echo"),
        "Accept": "image/png" if "NOT_ACCEPTABLE" in faults else "*/*",
        "Content-Encoding": "gzip" if "CONTENT_ENCODING_UNSUPPORTED" in faults else "identity",
        "Content-Type": "text/plain" if "UNSUPPORTED_MEDIA_TYPE" in faults else "application/json",
        "Content-Length": "1001" if "BODY_TOO_LARGE" in faults else "1",
    }
    if "UNAUTHENTICATED" in faults:
        del headers["Authorization"]
    elif "SCOPE_MISSING" in faults:
        headers["Authorization"] = "Bearer other"
    if "RATE_LIMITED" in faults:
        for _ in range(2):
            assert (await world.post("/api/echo/rarely", {"text": "a"})).status_code == 200
    if "SERVICE_UNAVAILABLE" in faults:
        world.registry.move(world.registry.get("echo"), State.FAILED, Refused("No voice.", "Buy one."), "refused")
    n_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal n_read
        n_read += 1
        yield b"{"

    query = {"colour": "red"} if "UNKNOWN_FIELD" in faults else None
    answer = await world.client.post("/api/echo/rarely", params=query, headers=headers, content=body())
    world.refused(answer, *FAULTS[n_mended])
    assert n_read == (1 if len(faults) == 1 else 0)


async def test_a_refused_request_takes_nothing_from_the_limit(world: World) -> None:
    for _ in range(5):
        world.refused(
            await world.post("/api/echo/rarely", {"text": "a"}, headers={"Authorization": "Bearer other"}),
            403,
            "SCOPE_MISSING",
        )
    world.registry.move(world.registry.get("echo"), State.STOPPED)
    for _ in range(5):
        world.refused(await world.post("/api/echo/rarely", {"text": "a"}), 503, "SERVICE_UNAVAILABLE")
    world.registry.move(world.registry.get("echo"), State.READY)
    assert (await world.post("/api/echo/rarely", {"text": "a"})).headers["ratelimit"] == '"rarely";r=1;t=30'


# Who, when, how often


async def test_a_service_that_is_down_says_why_and_still_tells_its_health(world: World) -> None:
    world.registry.move(world.registry.get("echo"), State.FAILED, Refused("No voice.", "Buy one."), "refused")
    problem = world.refused(await world.post("/api/echo/echo", {"text": "a"}), 503, "SERVICE_UNAVAILABLE")
    assert (problem["detail"], problem["hint"]) == ("The service echo is failed: No voice.", "Buy one.")
    health = await world.client.get("/api/echo/health", headers={"Authorization": "Bearer other"})
    assert (health.status_code, health.json()["status"]) == (200, "fail")


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, ""), ({"Authorization": "Bearer "}, ""), ({"Authorization": "Basic eDp5"}, ""), ({}, "?token=echo")],
)
async def test_nobody_gets_in_without_a_credential_in_its_header(
    world: World, headers: dict[str, str], query: str
) -> None:
    answer = await world.client.get(f"/api/echo/echoes{query}", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"] == 'Bearer realm="corsac"'


async def test_the_request_over_the_limit_waits_as_long_as_it_is_told(world: World) -> None:
    for _ in range(2):
        assert (await world.post("/api/echo/rarely", {"text": "a"})).status_code == 200
    answer = await world.post("/api/echo/rarely", {"text": "a"})
    problem = world.refused(answer, 429, "RATE_LIMITED")
    assert (answer.headers["retry-after"], answer.headers["ratelimit-policy"]) == ("30", '"rarely";q=2;w=60')
    assert "ratelimit" in answer.headers
    world.clock.now += problem["retry_after_s"]
    assert (await world.post("/api/echo/rarely", {"text": "a"})).status_code == 200


@pytest.mark.parametrize(
    ("lengths", "status", "reason"), [([11], 422, "COST_TOO_LARGE"), ([6, 5], 429, "RATE_LIMITED"), ([6, 4], 200, "")]
)
async def test_a_limit_by_cost_counts_units(world: World, lengths: list[int], status: int, reason: str) -> None:
    for length in lengths:
        answer = await world.post("/api/echo/costly", {"text": "a" * length})
    if reason:
        world.refused(answer, status, reason)
    assert answer.status_code == status


@pytest.mark.parametrize("headers", [{}, {"X-Request-Timeout-Ms": "10"}])
async def test_work_past_its_deadline_is_stopped(world: World, headers: dict[str, str]) -> None:
    world.refused(await world.post("/api/echo/sleep", headers={**ECHO, **headers}), 504, "DEADLINE_EXCEEDED")
    assert world.manager.cancelled


async def test_a_client_that_leaves_stops_the_work_and_counts_as_cancelled(world: World) -> None:
    asking = asyncio.create_task(world.post("/api/echo/sleep", headers={**ECHO, "X-Request-Timeout-Ms": "60000"}))
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert world.manager.cancelled
    assert (world.log.entries[-1]["outcome"], world.log.entries[-1]["status"]) == ("cancelled", 499)


# What may come in


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "BODY_REQUIRED"),
        (b"null", 422, "WRONG_TYPE"),
        (b"[]", 422, "WRONG_TYPE"),
        (b'"x"', 422, "WRONG_TYPE"),
        (b"{}", 422, "FIELD_REQUIRED"),
        (b'{"text": "a", "temprature": 1}', 422, "UNKNOWN_FIELD"),
        (b'{"text": "a", "loud": "true"}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "times": "5"}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "times": 1.5}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "temperature": 3}', 422, "OUT_OF_RANGE"),
        (b'{"text": "a", "temperature": 1e999}', 400, "NON_FINITE_NUMBER"),
        (b'{"text": "a", "temperature": NaN}', 400, "NON_FINITE_NUMBER"),
        (rb'{"text": "\ud800"}', 400, "INVALID_UNICODE"),
        (rb'{"text": 5, "loud": "\ud800"}', 400, "INVALID_UNICODE"),
        (b'{"text": "a", "text": "b"}', 400, "DUPLICATE_KEY"),
        (b'{"text": "\xff"}', 400, "INVALID_UTF8"),
        (b'\xef\xbb\xbf{"text": "a"}', 400, "INVALID_ENCODING"),
        (b"[" * 100_000, 400, "JSON_TOO_DEEP"),
        (b'{"text": "a", "times": ' + b"9" * 5000 + b"}", 400, "NUMBER_TOO_LARGE"),
        (b'{"text":', 400, "MALFORMED_JSON"),
    ],
)
async def test_a_wrong_body_is_refused_with_its_reason_and_not_echoed(
    world: World, body: bytes, status: int, reason: str
) -> None:
    answer = await world.post("/api/echo/echo", content=body)
    problem = world.refused(answer, status, reason)
    assert world.manager.n_calls == 0
    if reason == "UNKNOWN_FIELD":
        assert "did you mean temperature" in problem["detail"]
        assert problem["errors"][0]["pointer"] == "/temprature"


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        (each, b'{"text": "a"}', "UNSUPPORTED_MEDIA_TYPE")
        for each in ("text/plain", "multipart/form-data; boundary=b", "")
    ]
    + [(each, b'{"text": "a"}', "UNSUPPORTED_MEDIA_TYPE") for each in ("application/xml", "application/x-json", "json")]
    + [("text/plain", b"", "UNSUPPORTED_MEDIA_TYPE")]
    + [("Application/JSON; charset=utf-8", b'{"text": "a"}', "")],
)
async def test_a_json_operation_takes_json_only(world: World, content_type: str, body: bytes, reason: str) -> None:
    headers = {**ECHO, **({"Content-Type": content_type} if content_type else {})}
    answer = await world.post("/api/echo/echo", content=body, headers=headers)
    if reason:
        world.refused(answer, 415, reason)
    assert answer.status_code == (415 if reason else 200)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=b", "application/x-www-form-urlencoded", ""]
)
@pytest.mark.parametrize("path", ["/api/echo/sleep", "/api/echo/upload"])
async def test_a_form_of_another_site_is_no_body_for_an_operation(world: World, path: str, content_type: str) -> None:
    if (path, content_type[:9]) == ("/api/echo/upload", "multipart"):
        pytest.skip("An upload is multipart.")
    headers = {**ECHO, **({"Content-Type": content_type} if content_type else {})}
    world.refused(await world.post(path, content=b"x=y", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(("path", "limit"), [("/api/echo/echo", 1 << 20), ("/api/echo/upload", 2000)])
@pytest.mark.parametrize("with_length", [True, False])
async def test_a_body_over_the_limit_is_refused_after_the_limit(
    world: World, path: str, limit: int, with_length: bool
) -> None:
    n_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_read
        yield b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' if "upload" in path else b'"'
        while n_read < 64 << 20:
            n_read += 500
            yield b" " * 500

    headers = {**ECHO, "Content-Type": "multipart/form-data; boundary=b" if "upload" in path else "application/json"}
    if with_length:
        headers["Content-Length"] = str(64 << 20)
    answer = await world.client.post(path, headers=headers, content=endless())
    world.refused(answer, 413, "BODY_TOO_LARGE")
    assert answer.headers["connection"] == "close"
    assert n_read <= (0 if with_length else limit + 64 * 1024)
    assert not list(world.uploads.iterdir())


async def test_an_upload_is_read_to_disk_and_gone_afterwards(world: World) -> None:
    answer = await world.client.post("/api/echo/upload", files={"a": b"x" * 900, "b": b""}, headers=ECHO)
    assert answer.json() == {"a": 900, "b": 0}
    assert not list(world.uploads.iterdir())


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("limit=200", 200, ""),
        ("limit=-1", 422, "OUT_OF_RANGE"),
        ("limit=1000000000", 422, "OUT_OF_RANGE"),
        ("limit=many", 422, "WRONG_TYPE"),
        ("limit=", 422, "WRONG_TYPE"),
        ("order=sideways", 422, "INVALID_CHOICE"),
        ("cursor=rubbish", 400, "INVALID_CURSOR"),
        ("limt=5", 422, "UNKNOWN_FIELD"),
        ("token=secret", 422, "UNKNOWN_FIELD"),
        ("=", 422, "UNKNOWN_FIELD"),
        ("&".join(f"a{n}=1" for n in range(2000)), 400, "TOO_MANY_FIELDS"),
    ],
)
async def test_a_query_is_as_strict_as_a_body(world: World, query: str, status: int, reason: str) -> None:
    answer = await world.client.get(f"/api/echo/echoes?{query}", headers=ECHO)
    if reason:
        problem = world.refused(answer, status, reason)
        assert "secret" not in answer.text
        assert query != "limt=5" or problem["errors"][0]["detail"] == "Did you mean limit?"
    assert answer.status_code == status


async def test_the_next_cursor_asks_for_the_next_page(world: World) -> None:
    first = (await world.client.get("/api/echo/echoes?limit=7", headers=ECHO)).json()
    second = await world.client.get("/api/echo/echoes", params={"cursor": first["next_cursor"]}, headers=ECHO)
    assert second.json()["items"] == ["7", "up"]


@pytest.mark.parametrize(
    "echo_id", ["A", "a.b", "a%00b", "%2e%2e%2fpasswd", "..%5c..", "a%2fb", "x" * 10_000, "%C3%A9", "a%0A"]
)
async def test_an_id_that_cannot_be_ours_is_refused(world: World, echo_id: str) -> None:
    world.refused(await world.client.get(f"/api/echo/echoes/{echo_id}", headers=ECHO), 422, "INVALID_ID")


@pytest.mark.parametrize("method", ["PUT", "PROPFIND", "__INIT__", "get", "OPTIONS"])
async def test_a_wrong_method_is_told_all_the_right_ones(world: World, method: str) -> None:
    answer = await world.client.send(_with_method(world.client, method, "/api/echo/echoes/a"))
    world.refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "DELETE, GET"


def _with_method(client: httpx.AsyncClient, method: str, path: str) -> httpx.Request:
    request = client.build_request("GET", path, headers=ECHO)
    request.method = method  # httpx would write it in capitals
    return request


@pytest.mark.parametrize(
    "path", ["/", "//api/echo/hello", "/api/echo/hello/", "/api/echo/hello.", "/api/echo/hello%20", "/API/echo/hello"]
)
async def test_a_path_that_is_nearly_one_of_ours_is_none(world: World, path: str) -> None:
    world.refused(
        await world.client.get(httpx.URL("http://localhost").copy_with(raw_path=path.encode())), 404, "NOT_FOUND"
    )


# What may come out of an operation


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError(SECRET), 500, "INTERNAL_ERROR"),
        (TimeoutError(SECRET), 504, "DEADLINE_EXCEEDED"),
        (HTTPException(409, SECRET), 409, "CONFLICT"),
        (CircuitOpen("The engine has failed too often.", retry_after_s=7), 503, "CIRCUIT_OPEN"),
    ],
)
async def test_an_error_is_translated_counted_once_logged_once_and_keeps_its_secrets(
    world: World, error: Exception, status: int, reason: str
) -> None:
    before, world.manager.error = world.counted(), error
    answer = await world.post("/api/echo/echo", {"text": "a"})
    world.refused(answer, status, reason)
    assert SECRET not in answer.text
    labels = {"service": "echo", "operation": "echo", "reason": reason}
    assert {key: n - before.get(key, 0) for key, n in world.counted().items() if n != before.get(key)} == {
        str(labels): 1
    }
    foreign = isinstance(error, RuntimeError | TimeoutError)
    assert [line["exc_info"] for line in world.log.entries if "exc_info" in line] == [error] * foreign
    assert [line["outcome"] for line in world.log.entries if line["event"] == "request"] == [reason]


async def test_an_answer_that_is_not_what_was_promised_is_an_error_of_ours(world: World) -> None:
    async def wrong(*_: object) -> str:
        return SECRET

    world.manager.echo = wrong  # type: ignore[assignment]
    answer = await world.post("/api/echo/echo", {"text": "a"})
    world.refused(answer, 500, "INTERNAL_ERROR")
    assert SECRET not in answer.text


async def test_every_request_has_one_line_that_says_who_what_and_how(world: World) -> None:
    await world.post("/api/echo/echo", {"text": "a"}, headers={**JSON, "X-Request-Id": "my-id"})
    [line] = world.log.entries
    expected = {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "path": "/api/echo/echo",
        "status": 200,
        "outcome": "ok",
        "service": "echo",
        "operation": "echo",
        "key_id": "key-echo",
        "peer": "127.0.0.1",
    }
    assert line | expected == line
    assert line["sent_bytes"] > 0
