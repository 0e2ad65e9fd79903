"""Parts come to life side by side; each failure is of one of three kinds, and only the temporary is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from structlog.testing import LogCapture
from tests.conftest import Clock

from corsac.core.exceptions import ServiceNotFound
from corsac.core.health_checks import Check
from corsac.core.logging_config import Logger
from corsac.core.service import Broken, NotReady, Part, Refused
from corsac.core.service_initializers import ServiceInitializer
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State


class Scripted(Part):
    """Starts as its script says: each step is an exception to raise or an event to wait for; then it works."""

    def __init__(self, *script: BaseException | asyncio.Event) -> None:
        self.script: Iterator[BaseException | asyncio.Event] = iter(script)
        self.n_starts = self.n_stops = self.n_cancelled = 0

    async def check(self) -> Sequence[Check]:
        return ()

    async def start(self) -> None:
        self.n_starts += 1
        step = next(self.script, None)
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            try:
                await step.wait()
            except asyncio.CancelledError:
                self.n_cancelled += 1
                raise

    async def stop(self) -> None:
        self.n_stops += 1


class Pauses:
    """A sleep that ends at once and remembers; the pause with the number `last` never ends."""

    def __init__(self, last: int = 1000) -> None:
        self.slept: list[float] = []
        self.last = last

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await (asyncio.Event().wait() if len(self.slept) >= self.last else asyncio.sleep(0))


@pytest.fixture
def registry() -> ServiceRegistry:
    return ServiceRegistry()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def initializer(
    registry: ServiceRegistry, logger: Logger, pauses: Pauses, clock: Clock
) -> AsyncIterator[ServiceInitializer]:
    initializer = ServiceInitializer(registry, logger, sleep=pauses, jitter=lambda: 0.5, monotonic=clock)
    yield initializer
    await initializer.close()


def add(registry: ServiceRegistry, name: str, part: Scripted, *requires: str) -> Entry:
    entry = Entry(name, name.partition(":")[0] if ":" in name else SERVICE, part, requires)
    registry.register(entry)
    return entry


async def turns(n: int = 20) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("failure", "kind", "detail"),
    [
        (Refused("No model.", "corsac models pull"), "refused", "No model."),
        (Broken("It is not for this machine."), "broken", "It is not for this machine."),
        (ZeroDivisionError("secret"), "broken", "It crashed while starting (ZeroDivisionError); the log has more."),
    ],
)
async def test_what_trying_again_will_not_mend_is_given_up_with_the_reason(
    registry: ServiceRegistry,
    initializer: ServiceInitializer,
    pauses: Pauses,
    failure: Exception,
    kind: str,
    detail: str,
) -> None:
    entry, other = add(registry, "a", Scripted(failure)), add(registry, "b", Scripted())
    await initializer.start_all()
    await turns()
    assert (entry.state, entry.failure, entry.detail) == (State.FAILED, kind, detail)
    assert entry.hint == getattr(failure, "hint", None)
    assert (other.state, pauses.slept) == (State.READY, [])


async def test_a_crash_is_logged_with_its_traceback(
    registry: ServiceRegistry, initializer: ServiceInitializer, log: LogCapture
) -> None:
    error = ZeroDivisionError("secret")
    add(registry, "a", Scripted(error))
    await initializer.start_all()
    assert [line["exc_info"] for line in log.entries if line["event"] == "start crashed"] == [error]


async def test_the_not_ready_is_tried_again_after_pauses_that_grow(
    registry: ServiceRegistry, initializer: ServiceInitializer, pauses: Pauses
) -> None:
    part = Scripted(*(NotReady("Nobody answers.") for _ in range(9)))
    entry = add(registry, "a", part)
    await initializer.start_all()
    assert (entry.state, entry.failure, entry.detail) == (State.FAILED, "not_ready", "Nobody answers.")
    await turns(60)
    assert (entry.state, part.n_starts, entry.attempts) == (State.READY, 10, 0)
    assert pauses.slept == [0.75 * pause for pause in (1, 2, 4, 8, 16, 32, 60, 60, 60)]


async def test_a_start_that_takes_too_long_is_not_ready(registry: ServiceRegistry, logger: Logger) -> None:
    initializer = ServiceInitializer(registry, logger, start_timeout_s=0.01, sleep=Pauses(last=1))
    entry = add(registry, "a", Scripted(asyncio.Event()))
    await initializer.start_all()
    assert (entry.failure, entry.detail) == ("not_ready", "It did not start within 0 s.")
    await initializer.close()


async def test_independent_parts_start_side_by_side_and_dependents_after_them(
    registry: ServiceRegistry, initializer: ServiceInitializer
) -> None:
    gate = asyncio.Event()
    slow, quick, dependent = Scripted(gate), Scripted(), Scripted()
    for name, part, *requires in (("c", dependent, "a"), ("a", slow), ("b", quick)):
        add(registry, name, part, *requires)
    starting = asyncio.create_task(initializer.start_all())
    await turns()
    assert (slow.n_starts, quick.n_starts, dependent.n_starts) == (1, 1, 0)
    gate.set()
    await starting
    assert dependent.n_starts == 1


async def test_services_do_not_wait_for_engines(registry: ServiceRegistry, initializer: ServiceInitializer) -> None:
    engine = add(registry, "speech:piper", Scripted(asyncio.Event()))
    service = add(registry, "tts", Scripted(), "speech")
    await initializer.start_all()
    assert (service.state, engine.state) == (State.READY, State.STARTING)


async def test_a_service_whose_dependency_failed_says_so(
    registry: ServiceRegistry, initializer: ServiceInitializer
) -> None:
    add(registry, "store", Scripted(Refused("No disk.", "Buy one.")))
    service = add(registry, "rag", Scripted(), "store")
    await initializer.start_all()
    status = registry.status(service)
    assert (status.state, status.detail, status.hint) == (State.DEGRADED, "store is failed: No disk.", "Buy one.")


@pytest.mark.parametrize("state", ["starting", "ready"])
async def test_what_starts_or_works_is_not_started_twice(
    registry: ServiceRegistry, initializer: ServiceInitializer, state: str
) -> None:
    gate, part = asyncio.Event(), Scripted()
    part.script = iter([gate])
    entry = add(registry, "a", part)
    first = initializer.begin("a")
    await turns()
    if state == "ready":
        gate.set()
        await first
    assert initializer.begin("a") is first
    await turns()
    assert (part.n_starts, entry.state) == (1, state)


async def test_start_does_not_wait_for_the_pause_between_two_tries(
    registry: ServiceRegistry, initializer: ServiceInitializer, pauses: Pauses
) -> None:
    pauses.last = 1
    entry = add(registry, "a", Scripted(NotReady("Nobody answers.")))
    await initializer.start_all()
    await turns()
    async with asyncio.timeout(5):
        await initializer.start("a")
    assert entry.state is State.READY


async def test_a_restart_does_not_wait_for_what_is_required_to_be_ready(
    registry: ServiceRegistry, initializer: ServiceInitializer, pauses: Pauses
) -> None:
    pauses.last = 1
    add(registry, "a", Scripted(NotReady("Nobody answers.")))
    entry = add(registry, "b", Scripted(), "a")
    await initializer.start_all()
    await turns()
    async with asyncio.timeout(5):
        await initializer.restart("b")
    assert entry.state is State.READY


async def test_a_caller_that_leaves_does_not_end_the_start(
    registry: ServiceRegistry, initializer: ServiceInitializer
) -> None:
    gate = asyncio.Event()
    entry = add(registry, "a", Scripted(gate))
    caller = asyncio.create_task(initializer.restart("a"))
    await turns()
    caller.cancel()
    await turns()
    gate.set()
    await turns()
    assert entry.state is State.READY


@pytest.mark.parametrize("stopped", ["a", "b"])
async def test_stopping_one_part_while_all_start_leaves_the_others_alone(
    registry: ServiceRegistry, initializer: ServiceInitializer, stopped: str
) -> None:
    gate = asyncio.Event()
    add(registry, "a", Scripted(gate))
    add(registry, "b", Scripted(), "a")
    starting = asyncio.create_task(initializer.start_all())
    await turns()
    await initializer.stop(stopped)
    gate.set()
    await starting
    assert {each.name: each.state for each in registry} == {"a": State.READY, "b": State.READY, stopped: State.STOPPED}


async def test_a_stop_ends_the_start_or_the_wait_for_the_next_try(
    registry: ServiceRegistry, initializer: ServiceInitializer, pauses: Pauses
) -> None:
    pauses.last = 1
    starting, waiting = Scripted(asyncio.Event()), Scripted(NotReady("Nobody answers."))
    for name, part in (("a", starting), ("b", waiting)):
        add(registry, name, part)
        initializer.begin(name)
    await turns()
    for name in ("a", "b"):
        await initializer.stop(name)
    await turns()
    assert (starting.n_cancelled, starting.n_stops, waiting.n_starts, waiting.n_stops) == (1, 1, 1, 1)
    assert {each.state for each in registry} == {State.STOPPED}


async def test_close_ends_every_start(registry: ServiceRegistry, initializer: ServiceInitializer) -> None:
    part = Scripted(asyncio.Event())
    add(registry, "a", part)
    task = initializer.begin("a")
    await turns()
    await initializer.close()
    assert (part.n_cancelled, task.cancelled()) == (1, True)


async def test_a_restart_stops_and_starts(registry: ServiceRegistry, initializer: ServiceInitializer) -> None:
    part = Scripted()
    entry = add(registry, "a", part)
    await initializer.start_all()
    await initializer.restart("a")
    assert (part.n_starts, part.n_stops, entry.state) == (2, 1, State.READY)


async def test_an_ill_part_is_restarted_after_pauses_that_double_and_then_given_up(
    registry: ServiceRegistry, initializer: ServiceInitializer, clock: Clock
) -> None:
    part = Scripted()
    add(registry, "a", part)
    await initializer.start_all()
    began, at = clock.now, []
    while clock.now < began + 500:
        n_starts = part.n_starts
        await initializer.revive("a")
        at += [clock.now - began] * (part.n_starts - n_starts)
        clock.now += 5
    assert at == [0, 15, 45, 105, 225]


async def test_a_part_that_was_well_for_long_is_restarted_afresh(
    registry: ServiceRegistry, initializer: ServiceInitializer, clock: Clock
) -> None:
    part = Scripted()
    add(registry, "a", part)
    await initializer.start_all()
    for _ in range(20):
        await initializer.revive("a")
        clock.now += 3600
    assert part.n_starts == 21


async def test_what_does_not_work_is_not_revived(registry: ServiceRegistry, initializer: ServiceInitializer) -> None:
    part = Scripted(Refused("No model."))
    add(registry, "a", part)
    await initializer.start_all()
    await initializer.revive("a")
    assert part.n_starts == 1


@pytest.mark.parametrize("method", ["begin", "start", "stop", "restart", "revive"])
async def test_an_unknown_part_is_told_as_such(initializer: ServiceInitializer, method: str) -> None:
    with pytest.raises(ServiceNotFound):
        await getattr(initializer, method)("nobody")
