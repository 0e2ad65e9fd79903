"""A repeated request with the same Idempotency-Key is answered as before, and its work is done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import Request
from pydantic import Field
from starlette.responses import JSONResponse, Response, StreamingResponse
from tests.conftest import Clock, client_behind_guard
from tests.core.echo import Bare

from corsac.core.base_router import BaseRouter, post
from corsac.core.bodies import Reply, RequestBody
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CircuitOpen, InternalError, InvalidChoice, NotFound
from corsac.core.http.authentication import AuthenticationLayer
from corsac.core.http.crash_guard import OpenStreams
from corsac.core.http.idempotent_route import MAX_KEPT_BYTES
from corsac.core.http.openapi import openapi_document
from corsac.core.idempotency import IdempotencyStore
from corsac.core.identity import Identity, Principal
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.logging_config import Logger
from corsac.core.logging_middleware import LoggingMiddleware
from corsac.core.metrics import Metrics
from corsac.core.router_mixins import FileUploadMixin
from corsac.core.service import ServiceContext
from corsac.core.storage.database import Database

ALICE = {"Authorization": "Bearer alice", "Idempotency-Key": "k-1"}
DAY_S = 86_400


class Order(RequestBody):
    """What is wanted."""

    text: str = Field(max_length=300_000)


class Made(Reply):
    """What was made."""

    number: int
    text: str


class WorkshopRouter(FileUploadMixin, BaseRouter):
    """Makes things, and counts them."""

    tag, prefix, scope, service_name = "shop", "/shop", "any", "shop"
    n_made = 0
    act: Callable[[int], Awaitable[Any]] | None = None

    async def make(self, text: str) -> Any:
        self.n_made += 1
        answer = await self.act(self.n_made) if self.act else None
        return answer or Made(number=self.n_made, text=text)

    @post("/make", idempotent_key=True, status=201, produces=("application/json", "audio/*"))
    async def make_one(self, body: Order) -> Made | Response:
        """Make one."""
        return await self.make(body.text)  # type: ignore[no-any-return]

    @post("/other", idempotent_key=True)
    async def make_other(self, body: Order) -> Made:
        """Make another kind."""
        return await self.make(body.text)  # type: ignore[no-any-return]

    @post("/things/{thing}", idempotent_key=True)
    async def make_thing(self, thing: int) -> Made:
        """Make one without being told how."""
        return await self.make(str(thing))  # type: ignore[no-any-return]

    @post("/upload", idempotent_key=True, upload=True)
    async def upload(self, request: Request) -> Made:
        """Make one from files."""
        async with self.receive_form(request, max_file_bytes=1000) as form:
            return await self.make(",".join(form.files))  # type: ignore[no-any-return]

    @post("/plain")
    async def plain(self, body: Order) -> Made:
        """Make one whatever the key."""
        return await self.make(body.text)  # type: ignore[no-any-return]


class Callers:
    """Everybody is the principal that the token names."""

    def by_secret(self, secret: str) -> Principal:
        return Principal(secret, f"key-{secret}", frozenset())


@dataclass
class Shop:
    """The router on a database, which can be started again."""

    path: Path
    logger: Logger
    clock: Clock
    database: Database = field(init=False)
    router: WorkshopRouter = field(init=False)
    client: httpx.AsyncClient = field(init=False)

    async def start(self) -> None:
        self.database = Database(self.path / "corsac.sqlite", logger=self.logger)
        await self.database.open()
        errors = ServiceErrorHandler("shop", self.logger, Metrics())
        self.router = WorkshopRouter(errors, RateLimiter(), IdempotencyStore(self.database, now=self.clock))
        self.router.context = cast(ServiceContext, SimpleNamespace(uploads=self.path))
        app = Bare(
            lambda app: LoggingMiddleware(app, logger=self.logger, metrics=Metrics(), errors=errors),
            lambda app: AuthenticationLayer(app, cast(Identity, Callers())),
        )
        app.router.routes.extend(self.router.routes())
        self.openapi = openapi_document("Shop", "1", "", app.routes)
        self.client = client_behind_guard(app, self.logger, OpenStreams())

    async def post(self, text: str = "a", path: str = "/make", **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/shop{path}", json={"text": text}, headers={**ALICE, **given})

    async def n_keys(self) -> int:
        return int(str(await self.database.read(lambda db: db.execute("SELECT count(*) FROM idempotency").get)))


@pytest.fixture
async def shop(tmp_path: Path, logger: Logger, clock: Clock) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path, logger, clock)
    await shop.start()
    yield shop
    await shop.database.close()


async def test_a_repetition_gets_the_first_answer_and_makes_nothing(shop: Shop) -> None:
    first, again = await shop.post(), await shop.post()
    assert (first.status_code, again.status_code, shop.router.n_made) == (201, 201, 1)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]


async def test_without_a_key_or_where_none_is_taken_every_request_is_work(shop: Shop) -> None:
    for _ in range(2):
        await shop.client.post("/shop/make", json={"text": "a"}, headers={"Authorization": "Bearer alice"})
        assert "idempotency-replayed" not in (await shop.post(path="/plain")).headers
    assert (shop.router.n_made, await shop.n_keys()) == (4, 0)


@pytest.mark.parametrize("change", [{"text": "b"}, {"Accept": "audio/*"}])
async def test_a_key_that_stood_for_another_request_is_refused(shop: Shop, change: dict[str, str]) -> None:
    await shop.post()
    refused = await shop.post(**change)
    assert (refused.status_code, refused.json()["reason"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await shop.post()).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "k" * 300, "k" * 256, "a b", "é"])
async def test_a_key_that_is_none_is_refused(shop: Shop, key: str) -> None:
    headers = [(b"authorization", b"Bearer alice"), (b"idempotency-key", key.encode())]
    refused = await shop.client.post("/shop/make", json={"text": "a"}, headers=headers)
    assert (refused.status_code, refused.json()["reason"]) == (400, "IDEMPOTENCY_KEY_INVALID")
    assert shop.router.n_made == 0


async def test_a_key_sent_twice_is_refused(shop: Shop) -> None:
    twice = [("Authorization", "Bearer alice"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await shop.client.post("/shop/make", json={"text": "a"}, headers=twice)).status_code == 400


async def test_a_key_belongs_to_one_principal_and_one_operation(shop: Shop) -> None:
    await shop.post()
    others = await shop.post(Authorization="Bearer bob"), await shop.post(path="/other")
    assert [each.json()["number"] for each in others] == [2, 3]


async def test_two_paths_of_one_operation_are_two_requests(shop: Shop) -> None:
    one, again, two = [await shop.client.post(f"/shop/things/{n}", headers=ALICE) for n in (1, 1, 2)]
    assert (one.json(), two.status_code) == (again.json(), 422)


async def test_of_two_at_a_time_one_works_and_the_other_is_told_to_wait(shop: Shop) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        started.set()
        await finish.wait()

    shop.router.act = wait
    first = asyncio.create_task(shop.post())
    await started.wait()
    second = await shop.post()
    finish.set()
    assert (second.status_code, second.json()["reason"], second.json()["retry"]) == (
        409,
        "IDEMPOTENCY_KEY_IN_FLIGHT",
        "retry",
    )
    assert second.headers["retry-after"] == "1"
    assert (await first).status_code == 201
    assert (await shop.post()).json()["number"] == 1


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (InvalidChoice("No such colour.", hint="Red."), True),
        (NotFound(), False),
        (CircuitOpen(), False),
        (InternalError(), False),
        (RuntimeError("ours"), False),
    ],
)
async def test_of_errors_only_those_are_kept_that_a_repetition_cannot_mend(
    shop: Shop, error: Exception, kept: bool
) -> None:
    async def fail(_: int) -> None:
        raise error

    shop.router.act = fail
    first, again = await shop.post(), await shop.post()
    assert (again.status_code, shop.router.n_made) == (first.status_code, 1 if kept else 2)
    assert ("idempotency-replayed" in again.headers) is kept
    for field_name in ("reason", "detail", "hint", "errors"):
        assert again.json()[field_name] == first.json()[field_name]
    assert again.json()["request_id"] == again.headers["x-request-id"] != first.json()["request_id"]


async def test_a_body_that_is_refused_is_refused_again(shop: Shop) -> None:
    first, again = [await shop.client.post("/shop/make", json={"text": 1}, headers=ALICE) for _ in range(2)]
    assert again.json()["errors"] == first.json()["errors"] != []
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_client_that_leaves_frees_its_key(shop: Shop) -> None:
    started = asyncio.Event()

    async def wait(number: int) -> None:
        started.set()
        await asyncio.sleep(0 if number > 1 else 60)

    shop.router.act = wait
    first = asyncio.create_task(shop.post())
    await started.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await shop.post()).json()["number"] == 2


async def test_an_answer_survives_a_restart_and_a_key_in_flight_does_not(shop: Shop) -> None:
    kept = await shop.post()
    started = asyncio.Event()

    async def hang(_: int) -> None:
        started.set()
        await asyncio.sleep(60)

    shop.router.act = hang
    hanging = asyncio.create_task(shop.post(Idempotency_Key="k-2"))
    await started.wait()
    before = shop.database
    await shop.start()  # beside the old one, which has freed nothing: so it is after kill -9
    assert (await shop.post()).content == kept.content
    assert (await shop.post(Idempotency_Key="k-2")).json()["number"] == 1
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    assert (await shop.post(Idempotency_Key="k-2")).headers["idempotency-replayed"] == "true"
    await before.close()


async def test_a_key_is_forgotten_after_a_day(shop: Shop) -> None:
    await shop.post()
    shop.clock.now += DAY_S - 1
    assert (await shop.post()).json()["number"] == 1
    shop.clock.now += 1
    assert (await shop.post("b")).json()["number"] == 2
    await shop.post(Idempotency_Key="k-2")
    shop.clock.now += DAY_S
    await shop.post(Idempotency_Key="k-3")
    assert await shop.n_keys() == 1


async def events() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"data: 1\n\n"


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: StreamingResponse(events(), headers={"location": "/api/streams/s1"}), "/api/streams/s1"),
        (lambda: Response(b"wav", media_type="audio/wav", headers={"content-location": "/a/1"}), "/a/1"),
        (lambda: JSONResponse("x" * MAX_KEPT_BYTES, headers={"content-location": "/a/2"}), "/a/2"),
        (lambda: JSONResponse("x" * MAX_KEPT_BYTES), None),
        (lambda: StreamingResponse(events()), None),
    ],
)
async def test_what_is_large_or_streamed_is_kept_as_its_place(
    shop: Shop, make: Callable[[], Response], place: str | None
) -> None:
    async def answer(_: int) -> Response:
        return make()

    shop.router.act = answer
    first, again = await shop.post(), await shop.post()
    assert first.status_code == 200
    assert (again.status_code, again.headers.get("location")) == ((303, place) if place else (200, None))
    assert (shop.router.n_made, await shop.n_keys()) == ((1, 1) if place else (2, 0))


@pytest.mark.parametrize(("preference", "kept"), [({}, False), ({"preference-applied": "resume=30"}, True)])
async def test_a_cut_stream_is_kept_only_where_it_goes_on(shop: Shop, preference: dict[str, str], kept: bool) -> None:
    started = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        started.set()
        await asyncio.sleep(60)

    async def answer(number: int) -> Response:
        headers = {"location": f"/api/streams/{number}", **preference}
        return StreamingResponse(slow() if number == 1 else events(), headers=headers)

    shop.router.act = answer
    first = asyncio.create_task(shop.post())
    await started.wait()
    assert (await shop.post()).headers["location"] == "/api/streams/1"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await shop.post()).status_code == (303 if kept else 200)


@pytest.mark.parametrize(("content", "same"), [(b"RIFF--", True), (b"RIFF-!", False)])
async def test_an_upload_is_compared_by_its_files_and_not_by_its_boundary(
    shop: Shop, content: bytes, same: bool
) -> None:
    first = await shop.client.post("/shop/upload", files={"clip": ("a.wav", b"RIFF--")}, headers=ALICE)
    again = await shop.client.post("/shop/upload", files={"clip": ("a.wav", content)}, headers=ALICE)
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (first.status_code, again.status_code, shop.router.n_made) == (200, 200 if same else 422, 1)
    assert not list(shop.path.glob("upload-*"))


async def test_where_the_key_cannot_be_stored_nothing_is_made(shop: Shop) -> None:
    await shop.database.write(lambda db: db.execute("PRAGMA query_only = 1").fetchall())
    refused = await shop.post()
    assert (refused.status_code, refused.json()["reason"], shop.router.n_made) == (503, "STORAGE_FAILED", 0)


async def test_the_header_and_its_errors_are_documented(shop: Shop) -> None:
    make, plain = (shop.openapi["paths"][f"/shop/{name}"]["post"] for name in ("make", "plain"))
    assert [each["name"] for each in make["parameters"]] == ["Idempotency-Key"]
    assert "parameters" not in plain
    examples = {**make["responses"]["409"], **make["responses"]["422"]["content"]["application/problem+json"]}
    assert "IDEMPOTENCY_KEY_REUSED" in examples["examples"]
