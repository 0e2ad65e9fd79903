"""Batches and jobs over HTTP, on a whole server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import Field
from tests.in_process import Running, running

from corsac.core.base_router import BaseServiceRouter, post
from corsac.core.bodies import RequestBody
from corsac.core.call import Call
from corsac.core.configuration.model import ServiceConfigModel
from corsac.core.exceptions import Invalid
from corsac.core.health_checks import Check
from corsac.core.jobs.batch import Batch
from corsac.core.jobs.job import ItemResult, Job, JobContext
from corsac.core.router_mixins import BATCH_ERRORS, BatchMixin
from corsac.core.service import Part, ServiceContext, ServiceSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")
ABSENT = "0" * 32


class Greet(RequestBody):
    """Whom to greet."""

    name: str = Field(min_length=1, max_length=20, description="A name.", examples=["Ann"])
    loud: bool = Field(False, description="Whether to shout.")


class GreetingConfigModel(ServiceConfigModel):
    """Nothing to set."""


class GreetingManager(Part):
    """Greets many."""

    def __init__(self, context: ServiceContext) -> None:
        self.open = asyncio.Event()
        self.open.set()
        context.jobs.register("greeting.greet", self.greet, concurrency=4)

    async def check(self) -> Sequence[Check]:
        return ()

    async def greet(self, context: JobContext, item: dict[str, Any]) -> ItemResult:
        await self.open.wait()
        request = Greet.model_validate(item)
        if request.name == "Nobody":
            raise Invalid("Nobody cannot be greeted.")
        return ItemResult({"words": f"Hello {request.name}"})


class GreetingRouter(BatchMixin, BaseServiceRouter[GreetingManager]):
    """Greets many."""

    service_name = "greeting"

    @post("/greet/batch", status=202, max_body_bytes=4 << 20, raises=BATCH_ERRORS)
    async def greet_many(self, body: Batch[Greet], call: Call) -> Job:
        """Greet many, as a job."""
        return await self.submit_batch("greeting.greet", body, call)


GREETING = ServiceSpec("greeting", GreetingManager, GreetingRouter, GreetingConfigModel)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("server") / "data", services=[GREETING]) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(server: Running) -> httpx.AsyncClient:
    return await server.client_with("greeting")


def manager(server: Running) -> GreetingManager:
    part: GreetingManager = server.corsac.registry.get("greeting").part  # type: ignore[assignment]
    return part


async def submit(client: httpx.AsyncClient, items: Sequence[Any]) -> dict[str, Any]:
    answer = await client.post("/api/greeting/greet/batch", json={"items": items})
    assert (answer.status_code, answer.headers["location"]) == (202, answer.json()["url"]), answer.text
    job: dict[str, Any] = answer.json()
    return job


async def stream(client: httpx.AsyncClient, path: str, **headers: str) -> list[dict[str, Any]]:
    answer = await client.get(path, headers={"accept": "application/x-ndjson", **headers})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines() if line]


async def test_an_invalid_item_fails_alone(alice: httpx.AsyncClient) -> None:
    items: list[Any] = [{"name": f"Ann {n}"} for n in range(1000)]
    items[7] = {"name": "Ann", "laud": True}
    job = await submit(alice, items)
    assert (job["n_items"], job["n_failed"], job["kind"]) == (1000, 1, "greeting.greet")
    events = await stream(alice, job["events_url"])
    assert [each["type"] for each in events[-2:]] == ["snapshot", "done"]
    done = (await alice.get(job["url"])).json()
    assert (done["state"], done["n_done"], done["n_failed"]) == ("done", 999, 1)
    [failed] = (await alice.get(f"{job['url']}/items?state=failed")).json()["items"]
    assert (failed["n"], failed["error"]["reason"], failed["error"]["errors"][0]["pointer"]) == (
        7,
        "UNKNOWN_FIELD",
        "/laud",
    )
    assert "loud" in failed["error"]["detail"]
    page = (await alice.get(f"{job['url']}/items?limit=3")).json()
    assert [each["output"] for each in page["items"]] == [{"words": f"Hello Ann {n}"} for n in range(3)]
    following = (await alice.get(f"{job['url']}/items?limit=3&cursor={page['next_cursor']}")).json()
    assert [each["n"] for each in following["items"]] == [3, 4, 5]


@pytest.mark.parametrize("item", [5, None, "Ann", [], {}, {"name": ""}, {"name": 5}, {"name": "x" * 21}])
async def test_whatever_is_wrong_with_an_item_is_said_about_that_item(alice: httpx.AsyncClient, item: Any) -> None:
    job = await submit(alice, [{"name": "Ann"}, item])
    await stream(alice, job["events_url"])
    good, bad = (await alice.get(f"{job['url']}/items")).json()["items"]
    assert (good["state"], bad["state"], bad["error"]["retry"]) == ("done", "failed", "fix_first")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"items": [{"name": "A"}] * 10_001}, 413, "BATCH_TOO_LARGE"),
        ({"items": []}, 422, "OUT_OF_RANGE"),
        ({"items": {"name": "A"}}, 422, "WRONG_TYPE"),
        ({}, 422, "FIELD_REQUIRED"),
        ({"items": [{"name": "A"}], "more": 1}, 422, "UNKNOWN_FIELD"),
    ],
)
async def test_a_batch_that_is_wrong_as_a_whole_is_refused(
    alice: httpx.AsyncClient, body: Any, status: int, reason: str
) -> None:
    answer = await alice.post("/api/greeting/greet/batch", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


async def test_the_document_describes_the_items(server: Running) -> None:
    document = (await server.owner.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    items = schemas["Batch_Greet_"]["properties"]["items"]
    assert (items["items"]["$ref"].rpartition("/")[2], items["maxItems"]) == ("Greet", 10_000)
    assert "202" in document["paths"]["/api/greeting/greet/batch"]["post"]["responses"]


PATHS = [
    ("GET", ""),
    ("GET", "/items"),
    ("GET", "/events"),
    ("GET", "/events?after=4"),
    ("POST", "/cancel"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/retry"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_anothers_job_is_answered_like_a_random_id(
    server: Running, alice: httpx.AsyncClient, method: str, path: str
) -> None:
    job = await submit(server.owner, [{"name": "Ann"}])
    answers = [await alice.request(method, f"/api/jobs/{each}{path}") for each in (job["id"], ABSENT)]
    problems = [answer.json() for answer in answers]
    for problem in problems:
        assert (problem.pop("status"), problem.pop("request_id"), problem.pop("instance"))[0] == 404
    assert problems[0] == problems[1]
    assert job["id"] not in [each["id"] for each in (await alice.get("/api/jobs")).json()["items"]]


async def test_an_administrator_sees_everybodys(server: Running, alice: httpx.AsyncClient) -> None:
    job = await submit(alice, [{"name": "Ann"}])
    assert (await server.owner.get(job["url"])).json()["owner"] == "alice"
    listed = (await server.owner.get("/api/jobs?kind=greeting.greet&limit=1")).json()
    assert ([each["id"] for each in listed["items"]], bool(listed["next_cursor"])) == ([job["id"]], True)


async def test_a_job_is_paused_resumed_cancelled_and_retried(server: Running, alice: httpx.AsyncClient) -> None:
    manager(server).open.clear()
    job = await submit(alice, [{"name": "Ann"}] * 9)
    for action, state, paused in (("pause", None, True), ("resume", None, False), ("cancel", "cancelled", False)):
        answer = await alice.post(f"{job['url']}/{action}")
        assert (answer.status_code, answer.json()["paused"]) == (200, paused)
        assert state in (None, answer.json()["state"])
    manager(server).open.set()
    assert (await alice.post(f"{job['url']}/pause")).json()["reason"] == "CONFLICT"
    assert (await alice.post(f"{job['url']}/retry")).status_code == 200
    await stream(alice, job["events_url"])
    assert (await alice.get(job["url"])).json()["n_done"] == 9
    assert (await alice.post(f"{job['url']}/retry")).status_code == 409


async def test_work_is_done_again_only_for_a_key_that_could_ask_for_it(
    server: Running, alice: httpx.AsyncClient
) -> None:
    job = await submit(alice, [{"name": "Nobody"}])
    await stream(alice, job["events_url"])
    other_key = await server.client_with("any")
    assert (await other_key.post(f"{job['url']}/retry")).json()["reason"] == "SCOPE_MISSING"
    assert (await alice.post(f"{job['url']}/retry")).status_code == 200


async def test_a_stream_goes_on_behind_what_arrived(alice: httpx.AsyncClient) -> None:
    job = await submit(alice, [{"name": f"Ann {n}"} for n in range(20)])
    whole = await stream(alice, job["events_url"])
    assert len({each["id"] for each in whole}) == 23
    for cut in (1, 9, len(whole) - 2):
        last = whole[cut]["id"]
        by_query = await stream(alice, f"{job['events_url']}?after={last}")
        by_header = await stream(alice, job["events_url"], **{"last-event-id": str(last)})
        assert [each["id"] for each in by_query[1:]] == [each["id"] for each in whole[cut + 1 :]]
        assert by_header == by_query
    sse = await alice.get(job["events_url"], headers={"accept": "text/event-stream"})
    assert sse.headers["content-type"].startswith("text/event-stream")
    assert sse.text.count("event: item") == 20
