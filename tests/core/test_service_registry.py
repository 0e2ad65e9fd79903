"""The registry knows who is there, how each is, and who needs whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from corsac.core.exceptions import AlreadyRegistered, DependencyCycle, EngineUnavailable, HasDependents, ServiceNotFound
from corsac.core.health_checks import Check
from corsac.core.service import Part, Refused
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State, Why


class Idle(Part):
    async def check(self) -> Sequence[Check]:
        return ()


def part(registry: ServiceRegistry, name: str, *requires: str, state: State = State.READY) -> Entry:
    kind = name.partition(":")[0] if ":" in name else SERVICE
    entry = Entry(name, kind, Idle(), requires)
    registry.register(entry)
    registry.move(entry, state)
    return entry


@pytest.fixture
def registry() -> ServiceRegistry:
    return ServiceRegistry(now=lambda: 1000.0)


def test_an_unknown_name_is_answered_with_near_ones(registry: ServiceRegistry) -> None:
    part(registry, "summarization")
    with pytest.raises(ServiceNotFound, match="Near names: summarization"):
        registry.get("summarisation")


def test_a_name_is_taken_once(registry: ServiceRegistry) -> None:
    first = part(registry, "tts")
    with pytest.raises(AlreadyRegistered, match="tts is registered already"):
        part(registry, "tts")
    assert registry.get("tts") is first


def test_a_circle_is_refused_by_its_names_and_leaves_the_rest(registry: ServiceRegistry) -> None:
    part(registry, "a", "b")
    part(registry, "b", "chat")
    with pytest.raises(DependencyCycle) as caught:
        part(registry, "chat:x", "a")
    assert set(caught.value.detail.split()) >= {"a", "b", "chat:x", "→"}
    assert [each.name for each in registry] == ["a", "b"]


def test_every_part_starts_after_what_it_requires(registry: ServiceRegistry) -> None:
    for name, *requires in (("a", "b", "chat"), ("b", "c"), ("c",), ("chat:x",), ("chat:y", "c")):
        part(registry, name, *requires)
    order = [each.name for each in registry.start_order()]
    assert sorted(order) == ["a", "b", "c", "chat:x", "chat:y"]
    assert order.index("c") < order.index("b") < order.index("a")
    assert order.index("c") < order.index("chat:y") < order.index("a")


def test_a_service_that_others_need_is_not_to_be_stopped(registry: ServiceRegistry) -> None:
    part(registry, "a")
    part(registry, "b", "a")
    part(registry, "c", "a", state=State.STOPPED)
    with pytest.raises(HasDependents, match=r"a is needed by b\.$"):
        registry.check_stoppable("a")
    registry.check_stoppable("b")


@pytest.mark.parametrize(("other", "stoppable"), [(State.READY, True), (State.DEGRADED, True), (State.FAILED, False)])
def test_an_engine_may_be_stopped_while_another_of_its_kind_works(
    registry: ServiceRegistry, other: State, stoppable: bool
) -> None:
    part(registry, "tts", "speech")
    part(registry, "speech:piper")
    part(registry, "speech:espeak", state=other)
    assert (registry.dependents("speech:piper") == []) is stoppable


def test_a_service_without_something_it_requires_is_degraded_and_says_what_and_how_to_mend_it(
    registry: ServiceRegistry,
) -> None:
    tts, piper = part(registry, "tts", "speech"), part(registry, "speech:piper")
    registry.move(piper, State.FAILED, Refused("The model is not here.", "corsac models pull"), "refused")
    status = registry.status(tts)
    assert (status.state, status.hint) == (State.DEGRADED, "corsac models pull")
    assert status.detail == "speech:piper is failed: The model is not here."
    assert registry.status(piper).required_by == ["tts"]
    assert registry.why_unavailable("tts") is None


def test_a_service_that_does_not_run_says_why(registry: ServiceRegistry) -> None:
    tts = part(registry, "tts", state=State.STARTING)
    assert registry.why_unavailable("tts") == Why("The service tts is starting.")
    registry.move(tts, State.FAILED, Refused("No disk.", "Buy one."), "refused")
    assert registry.why_unavailable("tts") == Why("The service tts is failed: No disk.", "Buy one.")


def test_what_works_again_has_no_failure_any_more(registry: ServiceRegistry) -> None:
    tts = part(registry, "tts")
    tts.attempts = 3
    registry.move(tts, State.FAILED, Refused("No disk.", "Buy one."), "refused")
    assert tts.attempts == 3
    registry.move(tts, State.READY)
    assert (tts.failure, tts.detail, tts.hint, tts.attempts, tts.since) == (None, "", None, 0, 1000.0)


async def test_working_engines_come_in_the_order_of_registration(registry: ServiceRegistry) -> None:
    piper, espeak = part(registry, "speech:piper"), part(registry, "speech:espeak", state=State.DEGRADED)
    part(registry, "speech:broken", state=State.FAILED)
    assert await registry.engines("speech") == [piper.part, espeak.part]


@pytest.mark.parametrize(("registered", "told"), [(False, "is installed"), (True, "speech:piper is failed: No model.")])
async def test_without_a_working_engine_the_answer_says_why(
    registry: ServiceRegistry, registered: bool, told: str
) -> None:
    if registered:
        piper = part(registry, "speech:piper")
        registry.move(piper, State.FAILED, Refused("No model.", "corsac models pull"), "refused")
    with pytest.raises(EngineUnavailable, match=told) as caught:
        await registry.engines("speech", wait_s=60)
    assert caught.value.hint == ("corsac models pull" if registered else None)


@pytest.mark.parametrize("ends_in", [State.READY, State.FAILED])
async def test_a_caller_waits_for_an_engine_that_is_starting(registry: ServiceRegistry, ends_in: State) -> None:
    piper = part(registry, "speech:piper", state=State.STARTING)
    waiting = asyncio.create_task(registry.engines("speech", wait_s=60))
    await asyncio.sleep(0)
    registry.move(piper, State.STARTING)
    await asyncio.sleep(0)
    registry.move(piper, ends_in)
    if ends_in is State.READY:
        assert await waiting == [piper.part]
    else:
        with pytest.raises(EngineUnavailable):
            await waiting


async def test_a_caller_waits_no_longer_than_it_said(registry: ServiceRegistry) -> None:
    part(registry, "speech:piper", state=State.STARTING)
    with pytest.raises(EngineUnavailable, match="speech:piper is starting"):
        await registry.engines("speech", wait_s=0.01)
