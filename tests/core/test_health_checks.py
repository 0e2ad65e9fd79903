"""Health is told in one form, from checks that run seldom, one at a time and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import LogCapture
from tests.conftest import Clock

from corsac.core import health_checks
from corsac.core.exceptions import ServiceNotFound
from corsac.core.health_checks import STORAGE, Check, HealthMonitor, Status
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.service import Part, Refused
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State


class Patient(Part):
    """Its check answers, raises or waits, as the test says."""

    def __init__(self) -> None:
        self.answer: Status | Exception | asyncio.Event = "pass"
        self.n_checks = 0

    async def check(self) -> Sequence[Check]:
        self.n_checks += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            return ()
        return [Check("patient:pulse", self.answer, 60.0, "bpm")]


@pytest.fixture
def registry() -> ServiceRegistry:
    return ServiceRegistry()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def jitter() -> list[float]:
    return [0.5]


@pytest.fixture
def monitor(
    registry: ServiceRegistry, metrics: Metrics, logger: Logger, clock: Clock, jitter: list[float]
) -> HealthMonitor:
    return HealthMonitor(
        registry, metrics, logger, monotonic=clock, now=lambda: clock.now - 999_000, jitter=lambda: jitter[0]
    )


@pytest.fixture
def add(registry: ServiceRegistry) -> Callable[..., Patient]:
    def add(name: str, *requires: str, state: State = State.READY) -> Patient:
        part = Patient()
        registry.register(Entry(name, name.partition(":")[0] if ":" in name else SERVICE, part, requires))
        registry.move(registry.get(name), state)
        return part

    return add


async def test_a_report_has_the_words_of_the_draft(monitor: HealthMonitor, add: Callable[..., Patient]) -> None:
    add("tts")
    report = (await monitor.report("tts")).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert (report["status"], report["serviceId"], report["ageS"]) == ("pass", "tts", 0)
    assert report["checks"]["patient:pulse"] == [
        {
            "componentId": "patient",
            "status": "pass",
            "observedValue": 60.0,
            "observedUnit": "bpm",
            "time": "1970-01-01T00:16:40Z",
            "affectedEndpoints": [],
        }
    ]


async def test_many_who_ask_at_once_cause_one_check(monitor: HealthMonitor, add: Callable[..., Patient]) -> None:
    part = add("tts")
    part.answer = asyncio.Event()
    asking = [asyncio.create_task(monitor.report("tts")) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # one that leaves takes the check from nobody
    await asyncio.sleep(0)
    part.answer.set()
    reports = await asyncio.gather(*asking[1:])
    assert (part.n_checks, {each.status for each in reports}) == (1, {"pass"})


@pytest.mark.parametrize(("random", "valid_s"), [(0.0, 4.0), (0.5, 5.0), (0.999, 5.99)])
async def test_a_check_is_good_for_about_five_seconds_and_tells_its_age(
    monitor: HealthMonitor,
    add: Callable[..., Patient],
    clock: Clock,
    jitter: list[float],
    random: float,
    valid_s: float,
) -> None:
    jitter[0], part = random, add("tts")
    await monitor.report("tts")
    clock.now += valid_s - 0.1
    assert (await monitor.report("tts")).age_s == round(valid_s - 0.1, 1)
    assert part.n_checks == 1
    clock.now += 0.2
    assert (await monitor.report("tts")).age_s == 0
    assert part.n_checks == 2


@pytest.mark.parametrize(("answer", "told"), [(asyncio.Event(), "took longer"), (ValueError("secret"), "crashed")])
async def test_a_check_that_hangs_or_crashes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    monitor: HealthMonitor,
    add: Callable[..., Patient],
    log: LogCapture,
    answer: asyncio.Event | Exception,
    told: str,
) -> None:
    monkeypatch.setattr(health_checks, "CHECK_TIMEOUT_S", 0.01)
    add("tts").answer = answer
    report = await monitor.report("tts")
    assert report.status == "fail"
    assert told in str(report.checks["tts:check"][0].output)
    assert "secret" not in report.model_dump_json()
    assert [line["exc_info"] for line in log.entries] == [answer] * (told == "crashed")


@pytest.mark.parametrize(("theirs", "expected"), [("pass", "pass"), ("warn", "warn"), ("fail", "warn")])
async def test_what_a_service_requires_makes_it_warn_at_most(
    monitor: HealthMonitor, add: Callable[..., Patient], theirs: Status, expected: Status
) -> None:
    add("tts", "speech")
    add("speech:piper").answer = theirs
    report = await monitor.report("tts")
    assert report.status == expected
    assert report.checks["patient:pulse"][1].affected_endpoints == ["/api/tts"]


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("tts", State.FAILED, "fail"),
        ("tts", State.STOPPED, "fail"),
        ("tts", State.STARTING, "warn"),
        ("tts", State.READY, "pass"),
        ("speech:piper", State.FAILED, "warn"),
    ],
)
async def test_the_whole_is_as_its_worst_service_and_an_engine_less_is_a_warning(
    monitor: HealthMonitor, add: Callable[..., Patient], name: str, state: State, expected: Status
) -> None:
    add("rag")
    add(name, state=state)
    assert (await monitor.aggregate()).status == expected


async def test_what_does_not_run_says_why_and_is_not_checked(
    monitor: HealthMonitor, add: Callable[..., Patient], registry: ServiceRegistry
) -> None:
    part = add("tts")
    registry.move(registry.get("tts"), State.FAILED, Refused("No model.", "corsac models pull"), "refused")
    report = await monitor.report("tts")
    assert (report.status, part.n_checks) == ("fail", 0)
    assert report.checks["tts:state"][0].output == "No model. To mend it: corsac models pull"


async def test_every_change_is_a_flap_and_a_point_of_the_history(
    monitor: HealthMonitor, add: Callable[..., Patient], metrics: Metrics, registry: ServiceRegistry, clock: Clock
) -> None:
    part = add("tts")
    answers: list[Status] = ["pass", "fail", "fail", "warn", "pass"]
    for answer in answers:
        part.answer = answer
        await monitor.report("tts")
        clock.now += 10
    registry.move(registry.get("tts"), State.STOPPED)
    await monitor.report("tts")
    assert [each.status for each in monitor.history("tts")] == [*answers, "fail"]
    assert metrics.registry.get_sample_value("corsac_health_flaps_total", {"part": "tts"}) == 4
    assert metrics.registry.get_sample_value("corsac_health", {"part": "tts"}) == 2


async def test_the_history_is_bounded(monitor: HealthMonitor, add: Callable[..., Patient], clock: Clock) -> None:
    add("tts")
    for _ in range(health_checks.HISTORY + 10):
        clock.now += 10
        await monitor.report("tts")
    assert len(monitor.history("tts")) == health_checks.HISTORY
    assert monitor.history("tts")[-1].time.timestamp() == clock.now - 999_000
    assert monitor.history("nobody") == []


@pytest.mark.parametrize("fails", [True, False])
async def test_a_source_counts_for_the_whole_and_storage_for_readiness(monitor: HealthMonitor, fails: bool) -> None:
    assert not await monitor.storage_fails()

    async def look() -> Sequence[Check]:
        return [Check("storage:disk", "fail" if fails else "pass")]

    monitor.add_source(STORAGE, look)
    assert await monitor.storage_fails() is fails
    assert (await monitor.aggregate()).status == ("fail" if fails else "pass")


async def test_only_working_parts_whose_own_check_fails_are_ill(
    monitor: HealthMonitor, add: Callable[..., Patient]
) -> None:
    add("tts", "speech")
    add("speech:piper").answer = "fail"
    add("speech:espeak").answer = "warn"
    add("rag", state=State.FAILED).answer = "fail"
    assert await monitor.ill() == ["speech:piper"]


async def test_the_health_of_nobody_is_a_404(monitor: HealthMonitor) -> None:
    with pytest.raises(ServiceNotFound):
        await monitor.report("nobody")
