"""What a mark promises is what a client meets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from tests.core.echo import ECHO, JSON, World

from corsac.core.exceptions import CircuitOpen
from corsac.core.service import Refused
from corsac.core.service_registry import State

SECRET = "the /secret/path of 10.0.0.1"


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


@pytest.mark.parametrize("headers", [{}, {"X-Request-Timeout-Ms": "150"}])
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
    assert {name: line[name] for name in expected} == expected
    assert line["sent_bytes"] > 0
