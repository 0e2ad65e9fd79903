"""The end comes in reverse order, and nobody holds it up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import LogCapture

from corsac.core import service_shutdown
from corsac.core.health_checks import Check
from corsac.core.logging_config import Logger
from corsac.core.service import Part
from corsac.core.service_registry import SERVICE, Entry, ServiceRegistry, State
from corsac.core.service_shutdown import stop_all, stop_part


class Stopping(Part):
    def __init__(self, name: str, stopped: list[str], how: str) -> None:
        self.name, self.stopped, self.how = name, stopped, how

    async def check(self) -> Sequence[Check]:
        return ()

    async def stop(self) -> None:
        self.stopped.append(self.name)
        if self.how == "crashes":
            raise RuntimeError("no luck")
        if self.how == "cancelled":
            raise asyncio.CancelledError
        while self.how in ("hangs", "ignores"):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if self.how == "hangs" or asyncio.current_task().cancelling() > 1:  # type: ignore[union-attr]
                    raise


def add(registry: ServiceRegistry, stopped: list[str], name: str, *requires: str, how: str = "") -> Entry:
    entry = Entry(name, SERVICE, Stopping(name, stopped, how), requires)
    registry.register(entry)
    registry.move(entry, State.READY)
    return entry


@pytest.mark.parametrize("how", ["hangs", "ignores", "crashes", "cancelled", ""])
async def test_parts_stop_after_what_needs_them_even_if_one_of_them_will_not(
    monkeypatch: pytest.MonkeyPatch, logger: Logger, how: str
) -> None:
    monkeypatch.setattr(service_shutdown, "EACH_S", 0.05)
    registry, stopped = ServiceRegistry(), list[str]()
    add(registry, stopped, "a", "b", how=how)
    add(registry, stopped, "b", "c")
    add(registry, stopped, "c")
    await stop_all(registry, logger)
    assert stopped == ["a", "b", "c"]
    assert {each.state for each in registry} == {State.STOPPED}
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_all_together_have_a_limit_too(logger: Logger) -> None:
    registry, stopped = ServiceRegistry(), list[str]()
    for name in "abcde":
        add(registry, stopped, name, how="hangs")
    times = iter([0.0, 19.95, 20.0, 21.0, 22.0, 23.0])
    async with asyncio.timeout(2):
        await stop_all(registry, logger, monotonic=lambda: next(times))
    assert sorted(stopped) == list("abcde")
    assert {each.state for each in registry} == {State.STOPPED}


async def test_what_never_started_or_has_stopped_is_left_alone(logger: Logger) -> None:
    registry, stopped = ServiceRegistry(), list[str]()
    registry.move(add(registry, stopped, "a"), State.REGISTERED)
    registry.move(add(registry, stopped, "b"), State.STOPPED)
    registry.move(add(registry, stopped, "c"), State.FAILED)
    await stop_all(registry, logger)
    assert stopped == ["c"]


@pytest.mark.parametrize(
    ("how", "event", "in_time"),
    [
        ("hangs", "did not stop in time", False),
        ("crashes", "stop crashed", False),
        ("cancelled", None, True),
        ("", None, True),
    ],
)
async def test_a_part_that_does_not_stop_properly_is_logged(
    logger: Logger, log: LogCapture, how: str, event: str | None, in_time: bool
) -> None:
    entry = add(ServiceRegistry(), [], "a", how=how)
    assert await stop_part(entry, logger, 0.01) is in_time
    assert [line["event"] for line in log.entries] == ([event] if event else [])
