"""How everything is: one format, from real successes, cached and with a history."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict, Field

from corsac.core.service_registry import SERVICE, WORKING, Entry, ServiceRegistry, State

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger
    from corsac.core.metrics import Metrics

Status = Literal["pass", "warn", "fail"]
SEVERITY: dict[Status, int] = {"pass": 0, "warn": 1, "fail": 2}
CACHE_S = 5.0
CHECK_TIMEOUT_S = 2.0
HISTORY = 720
STORAGE = "storage"
"""Name of the source without which the server is not ready."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        name: `component:measurement`, for example `piper:synthesis`.
        status: pass, warn or fail.
        observed_value: What was measured; finite.
        unit: Its unit.
        output: Why it is not `pass`, as a sentence.
        time: When it was looked at; None: just now.
        affected_endpoints: Paths that do not work fully because of it.
    """

    name: str
    status: Status
    observed_value: float | str | None = None
    unit: str | None = None
    output: str | None = None
    time: datetime | None = None
    affected_endpoints: tuple[str, ...] = ()


class CheckView(BaseModel):
    """A check in the draft's words (draft-inadarei-api-health-check)."""

    model_config = ConfigDict(populate_by_name=True)

    component_id: str = Field(serialization_alias="componentId")
    status: Status
    observed_value: float | str | None = Field(None, serialization_alias="observedValue")
    observed_unit: str | None = Field(None, serialization_alias="observedUnit")
    output: str | None = None
    time: datetime
    affected_endpoints: list[str] = Field(default_factory=list, serialization_alias="affectedEndpoints")


class HealthReport(BaseModel):
    """The health of one part or of all."""

    model_config = ConfigDict(populate_by_name=True)

    status: Status
    service_id: str = Field(serialization_alias="serviceId")
    description: str
    age_s: float = Field(serialization_alias="ageS", description="Seconds since the checks ran.")
    checks: dict[str, list[CheckView]]


class HealthSample(BaseModel):
    """One point of a part's history."""

    time: datetime
    status: Status
    duration_ms: float


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of some statuses; `pass` where there are none."""
    return max(statuses, key=SEVERITY.__getitem__, default="pass")


@dataclass(slots=True)
class _Known:
    """What is known of one part."""

    checks: Sequence[Check] = ()
    at: float = float("-inf")
    valid_s: float = 0.0
    running: asyncio.Task[None] | None = None
    history: deque[HealthSample] = field(default_factory=lambda: deque(maxlen=HISTORY))


class HealthMonitor:
    """Looks at parts, at most every five seconds each, however many ask.

    Args:
        registry: The parts.
        metrics: Gets status, duration and flaps.
        logger: Gets a line when a check crashes.
        monotonic: Seconds.
        now: Epoch seconds.
        jitter: A number in [0, 1), so that checks do not run in step.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        metrics: Metrics,
        logger: Logger,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.registry = registry
        self.logger = logger
        self.monotonic, self.now, self.jitter = monotonic, now, jitter
        self._known: dict[str, _Known] = {}
        self._sources: dict[str, Callable[[], Awaitable[Sequence[Check]]]] = {}
        labels, registered = ("part",), metrics.registry
        self._status = Gauge("corsac_health", "0 pass, 1 warn, 2 fail.", labels, registry=registered)
        self._seconds = Histogram("corsac_health_check_seconds", "Time of a check.", labels, registry=registered)
        self._flaps = Counter("corsac_health_flaps", "Changes of status.", labels, registry=registered)

    def add_source(self, name: str, look: Callable[[], Awaitable[Sequence[Check]]]) -> None:
        """Add something that is no part of the registry, for example the disk."""
        self._sources[name] = look

    async def report(self, name: str) -> HealthReport:
        """The health of a part, with what it requires.

        Raises:
            ServiceNotFound: No such part.
        """
        entry = self.registry.get(name)
        needed = self.registry.needed_by(entry)
        await asyncio.gather(*(self._refresh(each.name) for each in (entry, *needed)))
        own = self._checks_of(entry)
        # What it requires can only make it warn: it says itself whether it still works.
        theirs = [
            replace(check, status=worst_of_dependency(check.status), affected_endpoints=(f"/api/{name}",))
            for each in needed
            for check in self._checks_of(each)
        ]
        return self._view(name, f"{entry.name} is {self.registry.state_of(entry)}", [*own, *theirs], [entry.name])

    async def aggregate(self) -> HealthReport:
        """The health of everything."""
        names = [each.name for each in self.registry] + list(self._sources)
        await asyncio.gather(*(self._refresh(name) for name in names))
        checks: list[Check] = []
        for entry in self.registry:
            found = self._checks_of(entry)
            if entry.kind != SERVICE:  # one engine less is a warning; whether a service still works is its own check
                found = [replace(check, status=worst_of_dependency(check.status)) for check in found]
            checks += found
        for name in self._sources:
            checks += self._known[name].checks
        return self._view("corsac", "All services, engines and stores", checks, names)

    async def ill(self) -> list[str]:
        """Names of working parts whose own check fails."""
        working = [each for each in self.registry if each.state in WORKING]
        await asyncio.gather(*(self._refresh(each.name) for each in working))
        return [each.name for each in working if worst(c.status for c in self._known[each.name].checks) == "fail"]

    async def storage_fails(self) -> bool:
        """Whether the store's last check failed; False where there is none to check."""
        if STORAGE not in self._sources:
            return False
        await self._refresh(STORAGE)
        return worst(check.status for check in self._known[STORAGE].checks) == "fail"

    def history(self, name: str) -> list[HealthSample]:
        """The last samples of a part, oldest first."""
        return list(self._known[name].history) if name in self._known else []

    async def _refresh(self, name: str) -> None:
        known = self._known.setdefault(name, _Known())
        if self.monotonic() - known.at < known.valid_s:
            return
        if known.running is None or known.running.done():
            known.running = asyncio.create_task(self._look(name, known))
        await asyncio.shield(known.running)

    async def _look(self, name: str, known: _Known) -> None:
        began = self.monotonic()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                checks = await self._ask(name)
        except TimeoutError:
            checks = [Check(f"{name}:check", "fail", output=f"The check took longer than {CHECK_TIMEOUT_S:.0f} s.")]
        except Exception as error:
            self.logger.error("health check crashed", part=name, exc_info=error)
            checks = [Check(f"{name}:check", "fail", output="The check crashed; the log has more.")]
        seconds, status = self.monotonic() - began, worst(check.status for check in (*self._state(name), *checks))
        if known.history and known.history[-1].status != status:
            self._flaps.labels(name).inc()
        self._status.labels(name).set(SEVERITY[status])
        self._seconds.labels(name).observe(seconds)
        at = datetime.fromtimestamp(self.now(), UTC)
        known.history.append(HealthSample(time=at, status=status, duration_ms=round(seconds * 1000, 2)))
        known.checks = [check if check.time else replace(check, time=at) for check in checks]
        known.at, known.valid_s = self.monotonic(), CACHE_S * (0.8 + 0.4 * self.jitter())

    async def _ask(self, name: str) -> Sequence[Check]:
        if name in self._sources:
            return await self._sources[name]()
        entry = self.registry.get(name)
        return await entry.part.check() if entry.state in WORKING else ()

    def _checks_of(self, entry: Entry) -> list[Check]:
        return [*self._state(entry.name), *self._known[entry.name].checks]

    def _state(self, name: str) -> list[Check]:
        """What a part's state says of it; nothing for what is no part."""
        if name in self._sources:
            return []
        entry = self.registry.get(name)
        if entry.state in WORKING:
            status: Status = "pass"
        else:
            status = "warn" if entry.state in (State.STARTING, State.REGISTERED) else "fail"
        state = self.registry.state_of(entry)
        return [Check(f"{name}:state", status, state.value, output=_sentence(entry.detail, entry.hint))]

    def _view(self, name: str, description: str, checks: Sequence[Check], parts: Iterable[str]) -> HealthReport:
        now = datetime.fromtimestamp(self.now(), UTC)
        grouped: dict[str, list[CheckView]] = {}
        for check in checks:
            view = CheckView(
                component_id=check.name.rpartition(":")[0] or check.name,
                status=check.status,
                observed_value=check.observed_value,
                observed_unit=check.unit,
                output=check.output,
                time=check.time or now,
                affected_endpoints=list(check.affected_endpoints),
            )
            grouped.setdefault(check.name, []).append(view)
        age = max((self.monotonic() - self._known[part].at for part in parts if part in self._known), default=0.0)
        status = worst(check.status for check in checks)
        return HealthReport(
            status=status, service_id=name, description=f"{description}.", age_s=round(age, 1), checks=grouped
        )


def worst_of_dependency(status: Status) -> Status:
    """What a dependency's status makes of its dependent: never worse than `warn`."""
    return "warn" if status == "fail" else status


def _sentence(detail: str, hint: str | None) -> str | None:
    return " ".join(filter(None, (detail, f"To mend it: {hint}" if hint else ""))) or None
