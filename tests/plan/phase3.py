"""Phase 3, patterns: streams and events, tried on a service that does nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.in_process import Running
from tests.plan.checklist import proves
from tests.plugins.fountain import FountainRouter

from corsac.core.streaming_mixin import StreamingResponseMixin
from corsac.core.streams.routed_event import RoutedEvent, Where

FLOW = "/api/fountain/flow"


async def events_of(server: Running, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """The lines of a finished NDJSON stream."""
    answer = await server.owner.post(FLOW, json=body, headers={"Accept": "application/x-ndjson", **headers})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@proves("3.1.a")
async def a_router_streams_by_the_mixin(server: Running) -> None:
    assert issubclass(FountainRouter, StreamingResponseMixin)
    events = await events_of(server, {"n": 3})
    assert [each["type"] for each in events] == ["number", "number", "number", "done"]


@proves("3.1.b")
async def one_method_makes_the_answer_in_the_format_that_is_accepted(server: Running) -> None:
    assert callable(StreamingResponseMixin.create_streaming_response)
    answer = await server.owner.post(FLOW, json={"n": 1}, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: number\n" in answer.text
    assert "event: done\n" in answer.text


@proves("3.1.c")
async def events_are_filtered_and_changed(server: Running) -> None:
    def louder(event: RoutedEvent) -> RoutedEvent | None:
        return event if event.data["n"] != 1 else None

    with server.corsac.events.subscribe(Where(types=frozenset({"drop"})), louder) as drops:
        server.corsac.events.publish("mist", "fountain", {"n": 0})
        await server.owner.post("/api/fountain/publish", json={"n": 3})
        async with asyncio.timeout(5):
            arriving = aiter(drops)
            heard = [(await anext(arriving)).data["n"] for _ in range(2)]
    assert heard == [0, 2]


@proves("3.1.d")
async def sockets_are_counted_and_capped(server: Running) -> None:
    waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {server.corsac.identity.token}".encode())]
    path = "/api/fountain/echo/hall"
    scope: dict[str, Any] = {"type": "websocket", "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "scheme": "ws", "subprotocols": []}
    talk = asyncio.create_task(server.app(scope, waiting.get, said.put))
    async with asyncio.timeout(5):
        waiting.put_nowait({"type": "websocket.connect"})
        assert (await said.get())["type"] == "websocket.accept"
        waiting.put_nowait({"type": "websocket.receive", "text": "Hello"})
        assert json.loads((await said.get())["text"])["data"]["text"] == "Hello"
        assert len(server.corsac.hub.sockets.open) == 1
        waiting.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await talk
    assert len(server.corsac.hub.sockets.open) == 0


@proves("3.1.e")
async def a_late_failure_is_an_event_in_problem_form(server: Running) -> None:
    *_, last = await events_of(server, {"n": 2, "fails": True})
    assert (last["type"], last["data"]["reason"]) == ("error", "CONFLICT")
    early = await server.owner.post(FLOW, json={"n": 0, "fails": True}, headers={"Accept": "text/event-stream"})
    assert (early.status_code, early.json()["reason"]) == (409, "CONFLICT")


@proves("3.1.+1")
async def streams_are_measured(server: Running) -> None:
    await events_of(server, {"n": 2})
    metrics = (await server.owner.get("/metrics")).text
    assert 'corsac_stream_first_event_seconds_count{service="fountain"}' in metrics


@proves("3.1.+2")
async def a_client_gets_the_granularity_that_it_asks_for(server: Running) -> None:
    answer = await server.owner.post(FLOW, json={"n": 1}, headers={"X-Stream-Granularity": "thimble"})
    assert answer.status_code in (400, 422)
    assert await events_of(server, {"n": 2}, **{"X-Stream-Granularity": "token"})
