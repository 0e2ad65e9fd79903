"""Phase 1, foundation: errors and the base router."""

from __future__ import annotations

import asyncio
import re

import pytest
from structlog.testing import CapturingLogger
from tests.in_process import Running
from tests.plan.checklist import proves
from tests.plan.probe import SECRET, ProbeRouter

from corsac.core.base_router import BaseServiceRouter
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import (
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    InternalError,
    Invalid,
    NotFound,
    ServiceUnavailable,
    Unavailable,
    error_classes,
)
from corsac.core.metrics import Metrics
from corsac.core.recovery import CircuitBreaker, FallbackChain, RetryBudget, RetryPolicy, retry

MEMBERS = "type title status detail instance reason service operation request_id retry retry_after_s hint errors"


def handler() -> ServiceErrorHandler:
    return ServiceErrorHandler("probe", CapturingLogger(), Metrics())


def router_of(server: Running) -> ProbeRouter:
    [router] = [each for each in server.corsac.routers if isinstance(each, ProbeRouter)]
    return router


async def counted(server: Running, sample: str) -> float:
    """The value of a line of `/metrics`, 0 where there is none."""
    text = (await server.owner.get("/metrics")).text
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


@proves("1.1.a")
async def every_error_has_the_standard_form(server: Running) -> None:
    asked = [
        (server.owner, "GET", "/no/such/path", None, 404, "NOT_FOUND"),
        (server.owner, "PUT", "/livez", None, 405, "METHOD_NOT_ALLOWED"),
        (server.owner, "POST", "/api/probe/greet", {}, 422, "FIELD_REQUIRED"),
        (server.owner, "POST", "/api/probe/break", {"how": "ours"}, 409, "CONFLICT"),
        (server.owner, "POST", "/api/probe/break", {"how": "unforeseen"}, 500, "INTERNAL_ERROR"),
        (server.nobody, "GET", "/api/probe/lie", None, 401, "UNAUTHENTICATED"),
    ]
    for client, method, path, body, status, reason in asked:
        answer = await client.request(method, path, json=body)
        problem = answer.json()
        assert set(problem) == set(MEMBERS.split())
        assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == problem["request_id"]
        assert problem["type"] == f"/docs/errors/{reason}"


@proves("1.1.b")
async def handle_service_error_returns_what_to_raise(server: Running) -> None:
    errors, ours = handler(), NotFound("There is none.")
    assert errors.handle_service_error("greet", ours) is ours
    foreign = errors.handle_service_error("greet", ValueError(SECRET))
    assert isinstance(foreign, InternalError)
    assert SECRET not in foreign.detail
    assert isinstance(errors.handle_service_error("greet", TimeoutError()), DeadlineExceeded)
    assert errors.handle_service_error("greet", KeyError("x"), 404).status == 404
    assert errors.handle_service_error("greet", KeyError("x"), status_code=507).reason == "OUT_OF_SPACE"


@proves("1.1.c")
async def handle_service_unavailable_says_which_service_and_when_to_come_back(server: Running) -> None:
    error = handler().handle_service_unavailable("probe")
    assert isinstance(error, ServiceUnavailable)
    assert (error.status, error.retry, error.retry_after_s) == (503, "retry", 5)
    assert "probe" in error.detail


@proves("1.1.d")
async def there_is_a_class_for_each_kind_of_error(server: Running) -> None:
    by_status: dict[int, set[str]] = {}
    for each in error_classes():
        by_status.setdefault(each.status, set()).add(each.reason)
    assert by_status.keys() >= {
        400,
        401,
        403,
        404,
        405,
        406,
        408,
        409,
        412,
        413,
        415,
        421,
        422,
        429,
        500,
        503,
        504,
        507,
    }
    assert issubclass(ServiceUnavailable, Unavailable)
    with pytest.raises(Invalid):
        raise next(each for each in error_classes() if each.reason == "OUT_OF_RANGE")
    assert not issubclass(NotFound, Invalid)


@proves("1.1.e")
async def an_error_is_logged_once_with_its_context(server: Running) -> None:
    answer = await server.owner.post("/api/probe/break", json={"how": "unforeseen"})
    server.corsac.log_sink.flush()
    lines = server.corsac.log_store.query(q=answer.headers["x-request-id"], level="error")
    [line] = [each for each in lines if each["event"] == "operation failed"]
    assert (line["service"], line["operation"], line["reason"]) == ("probe", "break_down", "INTERNAL_ERROR")
    assert "ValueError" in str(line)
    known = await server.owner.post("/api/probe/break", json={"how": "ours"})
    server.corsac.log_sink.flush()
    assert not server.corsac.log_store.query(q=known.headers["x-request-id"], level="error")


@proves("1.1.+1")
async def recovery_calls_the_function_again_leaves_it_alone_or_asks_another(server: Running) -> None:
    calls: list[str] = []

    async def third_time() -> str:
        calls.append("retry")
        if len(calls) < 3:
            raise ConnectionError
        return "done"

    async def at_once(seconds: float) -> None:
        return None

    policy, budget = RetryPolicy(attempts=3), RetryBudget(monotonic=iter(range(100)).__next__)
    done = await retry(third_time, policy=policy, budget=budget, deadline_s=30, idempotent=True, sleep=at_once)
    assert (done, calls) == ("done", ["retry"] * 3)

    async def broken() -> str:
        calls.append("breaker")
        raise ConnectionError

    breaker = CircuitBreaker("upstream", min_calls=2)
    for expected in (ConnectionError, ConnectionError, CircuitOpen):
        with pytest.raises(expected):
            await breaker.call(broken)
    assert calls.count("breaker") == 2

    async def other() -> str:
        return "another"

    served = await FallbackChain([("first", broken), ("second", other)]).call()
    assert (served.value, served.served_by, served.degraded) == ("another", "second", True)


@proves("1.1.+2")
async def errors_are_counted_by_service_operation_and_reason(server: Running) -> None:
    sample = 'corsac_errors_total{operation="break_down",reason="CONFLICT",service="probe"}'
    before = await counted(server, sample)
    await server.owner.post("/api/probe/break", json={"how": "ours"})
    assert await counted(server, sample) == before + 1


@proves("1.2.a")
async def the_base_router_is_abstract_and_every_service_inherits_from_it(server: Running) -> None:
    router = router_of(server)
    with pytest.raises(TypeError):
        BaseServiceRouter(router.manager, router.context)  # type: ignore[abstract]
    assert {type(each).service_name for each in server.corsac.routers} == set(server.corsac.configs)
    assert all(isinstance(each, BaseServiceRouter) for each in server.corsac.routers)


@proves("1.2.b")
async def a_service_that_is_down_is_noticed_before_its_body_is_read(server: Running) -> None:
    await server.owner.post("/api/registry/probe/stop")
    answer = await server.owner.post("/api/probe/greet", content=b"{", headers={"content-type": "application/json"})
    await server.owner.post("/api/registry/probe/start")
    assert (answer.status_code, answer.json()["reason"]) == (503, "SERVICE_UNAVAILABLE")
    assert (await server.owner.post("/api/probe/greet", json={"name": "Ann"})).status_code == 200


@proves("1.2.c")
async def whatever_an_operation_raises_comes_out_in_our_words(server: Running) -> None:
    for how, status in (("unforeseen", 500), ("too late", 504), ("ours", 409)):
        answer = await server.owner.post("/api/probe/break", json={"how": how})
        assert answer.status_code == status
        assert SECRET not in answer.text

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await router_of(server)._standard_async_operation("greet", cancelled)


@proves("1.2.d")
async def standard_operations_pass_results_and_translate_errors(server: Running) -> None:
    router = router_of(server)

    async def doubled(number: int) -> int:
        return number * 2

    assert await router._standard_async_operation("double", doubled, number=2) == 4
    assert router._standard_operation("double", lambda number: number * 2, number=2) == 4
    with pytest.raises(InternalError) as caught:
        router._standard_operation("double", lambda: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(Conflict) as ours:
        router._standard_operation("double", lambda: (_ for _ in ()).throw(Conflict("As it is.")))
    assert ours.value.detail == "As it is."


@proves("1.2.e")
async def a_router_is_given_its_manager_and_an_operation_its_call(server: Running) -> None:
    alice = await server.client_with("probe")
    answer = await alice.post("/api/probe/greet", json={"name": "Ann"})
    assert answer.json() == {"words": "Hello Ann", "asked_by": "alice"}
    assert router_of(server).manager.context is router_of(server).context


@proves("1.2.+1")
async def operations_document_themselves(server: Running) -> None:
    document = (await server.nobody.get("/openapi.json")).json()
    operation = document["paths"]["/api/probe/greet"]["post"]
    assert (operation["summary"], operation["tags"]) == ("Greet somebody by name", ["probe"])
    assert (operation["x-corsac-scope"], operation["x-corsac-limit-per-minute"]) == ("probe", 600)
    assert "CONFLICT" in operation["responses"]["409"]["content"]["application/problem+json"]["examples"]
    assert "call" not in str(operation.get("parameters", "")).lower()


@proves("1.2.+2")
async def requests_and_answers_are_validated(server: Running) -> None:
    answer = await server.owner.post("/api/probe/greet", json={"name": 5, "nane": "Ann"})
    places = {each["pointer"]: each["reason"] for each in answer.json()["errors"]}
    assert (answer.status_code, places) == (422, {"/name": "WRONG_TYPE", "/nane": "UNKNOWN_FIELD"})
    lie = await server.owner.get("/api/probe/lie")
    assert (lie.status_code, lie.json()["reason"]) == (500, "INTERNAL_ERROR")
    assert SECRET not in lie.text
