"""Nothing gets past the outermost layer: every failure has an answer, and half an answer looks cut."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import LogCapture
from tests.conftest import ClientOf, guarded

from corsac.core.call import CURRENT_CALL, Call
from corsac.core.exceptions import InvalidFormat
from corsac.core.http.crash_guard import CALL, OpenStreams
from corsac.core.logging_config import Logger


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    call: Call = scope[CALL]
    assert CURRENT_CALL.get() is call
    call.headers.append((b"x-own", b"1"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": call.request_id.encode()})


def failing(error: Exception, *before: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error

    return app


async def messages_of(app: ASGIApp, logger: Logger, streams: OpenStreams, **scope: Any) -> list[Message]:
    """What goes out for one request or WebSocket."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    guard = guarded(app, logger, streams)
    await guard({"type": "http", "method": "GET", "path": "/x", "headers": [], **scope}, receive, send)
    return sent


@pytest.mark.parametrize("given", ["my-id_7.A", "a" * 64])
async def test_a_clients_request_id_is_taken(client_of: ClientOf, given: str) -> None:
    answer = await client_of(hello).get("/x", headers={"X-Request-Id": given})
    assert (answer.text, answer.headers["x-request-id"], answer.headers["x-own"]) == (given, given, "1")


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a\x1b[31m", "a/b", "é"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(client_of: ClientOf, given: str) -> None:
    answer = await client_of(hello).get("/x", headers={b"X-Request-Id": given.encode()})
    assert answer.text == answer.headers["x-request-id"]
    assert len(answer.text) == 32
    assert answer.text != (await client_of(hello).get("/x")).text


async def test_a_crash_is_logged_and_tells_nothing(client_of: ClientOf, log: LogCapture) -> None:
    answer = await client_of(failing(ValueError("/etc/passwd"))).get("/x")
    assert (answer.status_code, answer.json()["reason"]) == (500, "INTERNAL_ERROR")
    assert "passwd" not in answer.text
    assert [(line["event"], line["request_id"]) for line in log.entries] == [
        ("request crashed", answer.headers["x-request-id"])
    ]


async def test_an_error_of_ours_is_told_in_problem_form_and_not_logged(client_of: ClientOf, log: LogCapture) -> None:
    answer = await client_of(failing(InvalidFormat("No opus.", headers={"X-Hint": "wav"}))).get("/x")
    assert (answer.status_code, answer.json()["detail"], answer.headers["x-hint"]) == (422, "No opus.", "wav")
    assert log.entries == []


async def test_a_head_request_gets_the_headers_of_the_failure_only(client_of: ClientOf) -> None:
    answer = await client_of(failing(InvalidFormat())).head("/x")
    assert (answer.status_code, answer.content) == (422, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("error", [ValueError(), InvalidFormat()])
async def test_an_answer_that_fails_half_way_has_no_end(logger: Logger, streams: OpenStreams, error: Exception) -> None:
    start = {"type": "http.response.start", "status": 200}
    part = {"type": "http.response.body", "body": b"half", "more_body": True}
    sent = await messages_of(failing(error, start, part), logger, streams)
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
    assert len(streams) == 0


async def test_a_streamed_answer_is_open_while_it_is_streamed(logger: Logger, streams: OpenStreams) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        seen.append(len(streams))
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"token", "more_body": True})
            seen.append(len(streams))
        await send({"type": "http.response.body"})

    await messages_of(app, logger, streams)
    assert (seen, len(streams)) == ([0, 1, 1], 0)


@pytest.mark.parametrize(("path", "status"), [("/x", 503), ("/api/health", 503), ("/livez", 200), ("/readyz", 200)])
async def test_while_the_server_ends_only_probes_are_answered(
    logger: Logger, streams: OpenStreams, path: str, status: int
) -> None:
    guard = guarded(hello, logger, streams, draining=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost") as client:
        answer = await client.get(path)
    assert answer.status_code == status
    if status == 503:
        assert (answer.json()["reason"], answer.headers["connection"], answer.headers["retry-after"]) == (
            "SHUTTING_DOWN",
            "close",
            "5",
        )


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ((), ["websocket.http.response.start", "websocket.http.response.body"]),
        (({"type": "websocket.accept"},), ["websocket.accept", "websocket.close"]),
    ],
)
async def test_a_websocket_is_denied_before_and_closed_after_it_was_accepted(
    logger: Logger, streams: OpenStreams, before: tuple[Message, ...], expected: list[str]
) -> None:
    sent = await messages_of(failing(InvalidFormat(), *before), logger, streams, type="websocket")
    assert [each["type"] for each in sent] == expected
    assert sent[-1].get("code", 1011) == 1011


async def test_every_answer_has_the_headers_of_all(logger: Logger, streams: OpenStreams) -> None:
    for app in (hello, failing(InvalidFormat()), failing(ValueError())):
        sent = await messages_of(app, logger, streams, client=("192.0.2.1", 5))
        assert (b"x-all", b"1") in sent[0]["headers"]


@pytest.mark.parametrize(("media_type", "is_page"), [(b"text/html; charset=utf-8", True), (b"application/json", False)])
async def test_pages_get_the_headers_of_pages(client_of: ClientOf, media_type: bytes, is_page: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        await send({"type": "http.response.body", "body": b""})

    answer = await client_of(app).get("/x")
    assert ("x-page" in answer.headers, answer.headers["x-all"]) == (is_page, "1")
