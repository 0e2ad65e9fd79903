"""Phase 1, foundation: errors, base router, logging, configuration."""

from __future__ import annotations

import asyncio
import gzip
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from structlog.testing import CapturingLogger

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
from corsac.core.log_file import LogFile
from corsac.core.logging_config import get_api_logger, get_service_logger
from corsac.core.metrics import Metrics
from corsac.core.recovery import CircuitBreaker, FallbackChain, RetryBudget, RetryPolicy, retry
from tests.in_process import Running
from tests.plan.checklist import proves
from tests.plan.probe import SECRET, ProbeRouter

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
    assert by_status.keys() >= {400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 421, 422, 429, 500, 503, 504, 507}
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
        BaseServiceRouter(router.manager, router.context)
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


@proves("1.3.a")
async def a_service_logger_names_its_service(server: Running) -> None:
    get_service_logger("choir").warning("out of tune", voice="tenor")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="choir")
    assert (line["event"], line["voice"], line["level"]) == ("out of tune", "tenor", "warning")


@proves("1.3.b")
async def an_api_logger_names_its_api(server: Running) -> None:
    get_api_logger("semaphore").warning("unknown flag")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(q="unknown flag")
    assert line["api"] == "semaphore"


@proves("1.3.c")
async def a_line_within_a_request_carries_the_requests_context(server: Running) -> None:
    answer = await server.owner.post("/api/probe/greet", json={"name": "Ann"}, headers={"x-request-id": "r-1.3.c"})
    assert answer.status_code == 200
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="probe", q="r-1.3.c")[:1]
    assert (line["event"], line["n_chars"], line["request_id"]) == ("greeting", 3, "r-1.3.c")


@proves("1.3.d")
async def every_request_has_an_id_and_one_line(server: Running) -> None:
    answer = await server.owner.get("/api/session", headers={"x-request-id": "r-1.3.d"})
    minted = await server.owner.get("/api/session", headers={"x-request-id": "not an id"})
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(q="r-1.3.d")
    assert answer.headers["x-request-id"] == "r-1.3.d"
    assert re.fullmatch(r"[0-9a-f]{32}", minted.headers["x-request-id"])
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("GET", "/api/session", 200, "ok")
    assert line["duration_ms"] >= 0


@proves("1.3.e")
async def levels_and_times_are_the_usual_ones(server: Running) -> None:
    log = get_service_logger("loud")
    log.debug("not wanted")
    levels = await server.owner.put("/api/admin/logs/levels", json={"service": "loud", "level": "debug"})
    log.debug("wanted")
    server.corsac.log_sink.flush()
    [line] = server.corsac.log_store.query(service="loud")
    assert (line["event"], line["level"], levels.json()["loud"]) == ("wanted", "debug", "debug")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


@proves("1.3.+1")
async def logs_are_asked_for_and_counted(server: Running) -> None:
    get_service_logger("bell").error("cracked")
    get_service_logger("bell").info("rang")
    server.corsac.log_sink.flush()
    asked = await server.owner.get("/api/admin/logs", params={"service": "bell", "level": "error"})
    assert [line["event"] for line in asked.json()["lines"]] == ["cracked"]
    later = await server.owner.get("/api/admin/logs", params={"service": "bell", "since": "2999-01-01T00:00:00Z"})
    assert later.json()["lines"] == []
    assert await counted(server, 'corsac_log_events_total{level="error",service="bell"}') == 1


@proves("1.3.+2")
async def log_files_rotate_are_compressed_and_bounded(server: Running) -> None:
    with TemporaryDirectory() as folder:
        log = LogFile(Path(folder), max_file_bytes=4000, max_total_bytes=9000)
        for number in range(3000):
            log.write([b"%06d %s\n" % (number, b"%x" % hash(number) * 3)])
        log.close()
        files = list(Path(folder).iterdir())
        rotated = [file for file in files if file.suffix == ".gz"]
        assert rotated
        assert all(gzip.decompress(file.read_bytes()).endswith(b"\n") for file in rotated)
        assert sum(file.stat().st_size for file in files) <= 9000
        assert (Path(folder) / "corsac.log").read_bytes().endswith(log_line(2999))


def log_line(number: int) -> bytes:
    return b"%06d %s\n" % (number, b"%x" % hash(number) * 3)


CONFIG = "/api/probe/config"


@proves("1.4.a")
async def the_mixin_brings_endpoints_and_no_memory(server: Running) -> None:
    paths = {f"{method} {route.path}" for route in server.routes for method in route.methods or ()}
    rest = "GET schema, POST validate, GET history, GET diff, POST rollback/{version}, POST reset"
    assert {f"{method} {CONFIG}" for method in ("GET", "PUT", "PATCH")} <= paths
    assert {"{} {}/{}".format(*pair.split()[:1], CONFIG, pair.split()[1]) for pair in rest.split(", ")} <= paths
    assert router_of(server).config is server.corsac.configs["probe"]


@proves("1.4.b")
async def get_config_endpoint_shows_values_and_origins(server: Running) -> None:
    await server.owner.post(f"{CONFIG}/reset")
    answer = await server.owner.get(CONFIG)
    assert answer.json()["values"] == {"word": "Hello", "volume": 5}
    assert answer.json()["origins"] == {"word": "default", "volume": "default"}
    assert answer.headers["etag"] == answer.json()["etag"]


@proves("1.4.c")
async def update_config_endpoint_changes_what_the_service_does(server: Running) -> None:
    answer = await server.owner.put(CONFIG, json={"word": "Ahoy"})
    greeted = await server.owner.post("/api/probe/greet", json={"name": "Ann"})
    assert answer.json()["origins"]["word"] == "api"
    assert greeted.json()["words"] == "Ahoy Ann"
    await server.owner.patch(CONFIG, json={"values": {"volume": 7}})
    assert (await server.owner.get(CONFIG)).json()["values"] == {"word": "Ahoy", "volume": 7}


@proves("1.4.d")
async def a_change_can_be_tried_without_making_it(server: Running) -> None:
    before = (await server.owner.get(CONFIG)).json()
    tried = (await server.owner.post(f"{CONFIG}/validate", json={"values": {"volume": 99}})).json()
    misspelt = (await server.owner.post(f"{CONFIG}/validate", json={"values": {"volumme": 1}})).json()
    assert (tried["valid"], tried["errors"][0]["reason"]) == (False, "OUT_OF_RANGE")
    assert "volume" in misspelt["errors"][0]["detail"]
    assert (await server.owner.get(CONFIG)).json() == before
    assert (await server.owner.patch(CONFIG, json={"values": {"volume": 99}})).status_code == 422


@proves("1.4.e")
async def listeners_are_told_of_a_change(server: Running) -> None:
    told = []
    store = server.corsac.configs["probe"]
    forget = store.subscribe(told.append)
    await server.owner.put(CONFIG, json={"volume": 2})
    forget()
    await server.owner.put(CONFIG, json={"volume": 3})
    [change] = told
    assert (change.author, change.after.volume, change.version) == ("owner", 2, store.version - 1)


@proves("1.4.+1")
async def every_change_is_a_version_to_compare_and_to_go_back_to(server: Running) -> None:
    first = (await server.owner.put(CONFIG, json={"word": "One"})).json()
    second = (await server.owner.put(CONFIG, json={"word": "Two"})).json()
    lost = await server.owner.put(CONFIG, json={"word": "Three"}, headers={"if-match": first["etag"]})
    assert (lost.status_code, lost.json()["reason"]) == (412, "CONFIG_VERSION_CONFLICT")
    span = {"from": first["version"], "to": second["version"]}
    diff = (await server.owner.get(f"{CONFIG}/diff", params=span)).json()
    assert diff["changes"] == {"word": {"before": "One", "after": "Two"}}
    back = (await server.owner.post(f"{CONFIG}/rollback/{first['version']}")).json()
    assert (back["values"]["word"], back["version"]) == ("One", second["version"] + 1)
    history = (await server.owner.get(f"{CONFIG}/history", params={"limit": 2})).json()
    assert [(each["version"], each["source"]) for each in history][0] == (back["version"], "rollback")


@proves("1.4.+2")
async def the_file_is_taken_up_while_the_server_runs_and_a_bad_one_is_not(server: Running) -> None:
    file = server.corsac.settings.config_file
    await server.owner.post(f"{CONFIG}/reset")

    async def word_becomes(word: str) -> None:
        async with asyncio.timeout(10):
            while (await server.owner.get(CONFIG)).json()["values"]["word"] != word:
                await asyncio.sleep(0.02)

    try:
        file.write_text('[services.probe]\nword = "Ciao"\n')
        await word_becomes("Ciao")
        file.write_text("[services.probe]\nword = 5\n")
        async with asyncio.timeout(10):
            while server.corsac.config_file.rejection is None:
                await asyncio.sleep(0.02)
        await word_becomes("Ciao")
        checks = {check.name: check.status for check in await server.corsac.check_storage()}
        assert checks["config:file"] == "warn"
    finally:
        file.write_text("")
    await word_becomes("Hello")


