"""Phase 5, final cleanup: security, registry, health, documentation and tests."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest
from structlog.testing import CapturingLogger
from tests.in_process import Running
from tests.json_schema import violations
from tests.plan.checklist import HOME, proves
from tests.plan.phase1 import counted
from tests.plan.probe import ProbeManager

from corsac.core.exceptions import DependencyCycle, HasDependents
from corsac.core.health_checks import Check, HealthMonitor
from corsac.core.metrics import Metrics
from corsac.core.plugins import SERVICES, discover
from corsac.core.service import Part
from corsac.core.service_initializers import ServiceInitializer
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State
from corsac.core.service_shutdown import stop_all

FOREIGN = {"origin": "http://elsewhere.example"}


class Fake(Part):
    """Remembers its starts and stops; ill, hanging or well."""

    def __init__(
        self, name: str = "", story: list[str] | None = None, *, ill: bool = False, hangs: bool = False
    ) -> None:
        self.name, self.story, self.ill, self.hangs = name, [] if story is None else story, ill, hangs

    async def start(self) -> None:
        self.story.append(f"start {self.name}")

    async def stop(self) -> None:
        if self.hangs:
            await asyncio.sleep(60)
        self.story.append(f"stop {self.name}")

    async def check(self) -> Sequence[Check]:
        return [Check(f"{self.name}:pulse", "fail" if self.ill else "pass")]


@proves("5.1.a")
async def security_refuses_in_the_same_form(server: Running) -> None:
    asked = [
        (await server.owner.get("/api/session", headers={"host": "evil.example"}), 421, "HOST_NOT_ALLOWED"),
        (await server.owner.get("/api/session", headers=FOREIGN), 403, "ORIGIN_NOT_ALLOWED"),
        (await server.owner.get("/api/session", headers={"origin": "null"}), 403, "ORIGIN_NOT_ALLOWED"),
        (await server.nobody.get("/api/session", headers={"authorization": "Bearer x"}), 401, "UNAUTHENTICATED"),
        (await server.owner.get("/api/keys%2f..%2fx"), 422, "INVALID_ID"),
        (await (await server.client_with("any")).get("/api/keys"), 403, "SCOPE_MISSING"),
    ]
    for answer, status, reason in asked:
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"


@proves("5.1.b")
async def refusals_are_counted_by_their_reason(server: Running) -> None:
    sample = 'corsac_requests_total{operation="",outcome="HOST_NOT_ALLOWED",service=""}'
    before = await counted(server, sample)
    await server.nobody.get("/api/session", headers={"host": "evil.example"})
    assert await counted(server, sample) == before + 1


@proves("5.2.a")
async def parts_are_started_and_stopped_in_one_place(server: Running) -> None:
    for action, states in (("stop", {"stopped"}), ("start", {"ready"}), ("restart", {"ready"})):
        answer = await server.owner.post(f"/api/registry/probe/{action}")
        assert answer.json()["state"] in states
    listed = (await server.owner.get("/api/registry")).json()
    assert {"probe", "tts"} <= {part["name"] for part in listed["parts"]}


@proves("5.2.b")
async def a_part_that_falls_ill_is_started_again(server: Running) -> None:
    registry, logger = ServiceRegistry(), CapturingLogger()
    patient = Fake("patient", ill=True)
    registry.register(Entry("patient", SERVICE, patient))
    initializer = ServiceInitializer(registry, logger)
    await initializer.start_all()
    monitor = HealthMonitor(registry, Metrics(), logger)
    assert await monitor.ill() == ["patient"]
    await initializer.revive("patient")
    assert patient.story == ["start patient", "stop patient", "start patient"]
    await initializer.close()


@proves("5.2.c")
async def who_needs_whom_is_known_and_a_circle_is_refused(server: Running) -> None:
    registry = ServiceRegistry()
    registry.register(Entry("base", SERVICE, Fake(), state=State.READY))
    registry.register(Entry("top", SERVICE, Fake(), ("base", "later"), state=State.READY))
    assert [each.name for each in registry.start_order()] == ["base", "top"]
    with pytest.raises(HasDependents, match="top"):
        registry.check_stoppable("base")
    with pytest.raises(DependencyCycle, match="top"):
        registry.register(Entry("later", SERVICE, Fake(), ("top",)))
    graph = (await server.owner.get("/api/registry/graph")).json()
    assert {"part": "tts", "needs": "speech:espeak"} in graph["edges"]
    assert graph["start_order"].index("speech:espeak") < graph["start_order"].index("tts")


@proves("5.2.d")
async def shutdown_refuses_new_work_and_stops_dependents_first(server: Running) -> None:
    server.corsac.drain()
    try:
        ready = await server.nobody.get("/readyz")
        work = await server.owner.get("/api/session")
        alive = await server.nobody.get("/livez")
    finally:
        server.corsac.readiness.draining = False
    assert (ready.status_code, alive.status_code) == (503, 200)
    assert (work.status_code, work.json()["reason"]) == (503, "SHUTTING_DOWN")
    story: list[str] = []
    registry = ServiceRegistry()
    registry.register(Entry("base", SERVICE, Fake("base", story), state=State.READY))
    registry.register(Entry("stuck", SERVICE, Fake("stuck", story, hangs=True), ("base",), state=State.READY))
    registry.register(Entry("top", SERVICE, Fake("top", story), ("stuck",), state=State.READY))
    await stop_all(registry, CapturingLogger(), total_s=0.2)
    assert story == ["stop top", "stop base"]


@proves("5.2.e")
async def every_service_has_its_configuration(server: Running) -> None:
    for name in server.corsac.configs:
        answer = await server.owner.get(f"/api/{name}/config")
        schema = (await server.owner.get(f"/api/{name}/config/schema")).json()
        assert answer.json()["service"] == name
        assert schema["properties"].keys() == answer.json()["values"].keys()


@proves("5.2.+1")
async def services_are_found_and_a_broken_one_is_named_while_the_others_stand(server: Running) -> None:
    points = [
        EntryPoint("broken", "no_such_module:SERVICE", SERVICES),
        EntryPoint("tts", "corsac.api.tts.endpoints:SERVICE", SERVICES),
    ]
    found = {each.view.name: each.view.error for each in discover(points)}
    assert found["tts"] is None
    assert "no_such_module" in str(found["broken"])
    listed = (await server.owner.get("/api/registry")).json()["plugins"]
    assert {"tts", "espeak", "piper"} <= {each["name"] for each in listed}


@proves("5.3.a")
async def all_health_has_one_form(server: Running) -> None:
    for path in ("/api/health", *(f"/api/{name}/health" for name in server.corsac.configs)):
        report = (await server.owner.get(path)).json()
        assert report.keys() == {"status", "serviceId", "description", "ageS", "checks"}
        assert report["status"] in ("pass", "warn", "fail")
        for checks in report["checks"].values():
            for check in checks:
                assert {"componentId", "status", "observedValue", "observedUnit", "output", "time"} <= check.keys()


@proves("5.3.b")
async def one_answer_has_the_health_of_everything(server: Running) -> None:
    checks = (await server.owner.get("/api/health")).json()["checks"]
    assert {f"{entry.name}:state" for entry in server.corsac.registry} <= checks.keys()
    assert {"storage:database", "storage:free", "config:file", "probe:pulse"} <= checks.keys()


@proves("5.3.c")
async def a_dependency_that_does_not_work_makes_its_dependents_warn(server: Running) -> None:
    report = (await server.owner.get("/api/tts/health")).json()
    [piper] = report["checks"]["speech:piper:state"]
    assert (report["status"], piper["status"]) == ("warn", "warn")
    assert piper["affectedEndpoints"] == ["/api/tts"]
    assert "corsac models pull" in piper["output"]


@proves("5.3.d")
async def checks_run_once_however_many_ask(server: Running) -> None:
    part = server.corsac.registry.get("probe").part
    assert isinstance(part, ProbeManager)
    await server.owner.get("/api/probe/health")
    before = part.n_checks
    answers = await asyncio.gather(*(server.owner.get("/api/probe/health") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert part.n_checks <= before + 1


@proves("5.3.e")
async def health_is_a_metric_with_a_history(server: Running) -> None:
    await server.owner.get("/api/health")
    assert await counted(server, 'corsac_health{part="probe"}') == 0
    assert await counted(server, 'corsac_health_check_seconds_count{part="probe"}') >= 1
    history = (await server.owner.get("/api/health/history", params={"part": "probe"})).json()
    assert history[-1]["status"] == "pass"


NAMED_COMPONENTS = (
    "error_handler exceptions recovery base_router router_mixins logging_config logging_middleware config_mixin"
    " config_store service_registry service_initializers service_shutdown health_checks"
)


@proves("5.4.b")
async def every_new_component_has_unit_tests(server: Running) -> None:
    wanted = {f"corsac.core.{name}" for name in NAMED_COMPONENTS.split()}
    tested: set[str] = set()
    for file in [each for each in (HOME / "tests").rglob("*.py") if each.parent.name != "plan"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                tested |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert wanted <= tested, sorted(wanted - tested)


@proves("5.4.c")
async def every_list_and_view_answers_as_documented(server: Running) -> None:
    document = (await server.nobody.get("/openapi.json")).json()
    asked = 0
    for path, methods in document["paths"].items():
        operation = methods.get("get")
        required = [each for each in (operation or {}).get("parameters", ()) if each.get("required")]
        skipped = required or path.startswith("/api/probe")
        if operation is None or skipped or "x-corsac-events" in operation:  # a stream of events may not end
            continue
        answer = await server.owner.get(path)
        assert answer.status_code == 200, (path, answer.text)
        content = operation["responses"]["200"].get("content", {})
        if schema := content.get("application/json", {}).get("schema"):
            assert not list(violations(answer.json(), schema, document)), path
        asked += 1
    assert asked >= 15


@proves("5.4.d")
async def benchmarks_run_by_name(server: Running) -> None:
    everything = (HOME / "benchmarks" / "__main__.py").read_text(encoding="utf-8")
    assert re.search(r"\bstart\b", everything)
    assert re.search(r"\boverhead\b", everything)
    once = "from benchmarks import start; start.STARTS, start.IDLE_S = 1, 0.0; start.main()"
    done = subprocess.run([sys.executable, "-c", once], cwd=HOME, capture_output=True, text=True)
    assert re.search(r"start to ready \d+\.\d+ s .* aim", done.stdout), done.stderr
