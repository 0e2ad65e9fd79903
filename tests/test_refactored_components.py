"""The plan's 18 tasks, item by item: what is built is tried, what is not built fails for that reason alone.

`pytest tests/test_refactored_components.py -v` is the list; `1.1.a` is task 1.1, requirement a, and `1.1.+1` its first
bonus.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

pytest.register_assert_rewrite("tests.plan")

from tests.in_process import Running, running  # noqa: E402
from tests.plan import phase1, phase1_logs_and_config, phase2, phase3, phase5  # noqa: E402
from tests.plan.checklist import PLAN, NotBuilt, Requirement, points, proved_in, require  # noqa: E402
from tests.plan.probe import PROBE  # noqa: E402
from tests.plan.unbuilt import unbuilt  # noqa: E402
from tests.plugins.fountain import SERVICE as FOUNTAIN  # noqa: E402

PROVED = [each for phase in (phase1, phase1_logs_and_config, phase2, phase3, phase5) for each in proved_in(phase)]
WAITING = [Requirement(each, partial(require, part=part)) for each, part in unbuilt().items()]


def row(requirement: Requirement) -> object:
    return pytest.param(requirement, id=f"{requirement.id}-{requirement.points}")


def waiting_row(requirement: Requirement) -> object:
    mark = pytest.mark.xfail(raises=NotBuilt, strict=True, reason=f"{unbuilt()[requirement.id]} is not built.")
    return pytest.param(requirement, id=f"{requirement.id}-{requirement.points}", marks=mark)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("data")
    async with running(folder, services=[PROBE, FOUNTAIN], log_level="info", requests_per_minute=100_000) as server:
        yield server


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("requirement", [*map(row, PROVED), *map(waiting_row, WAITING)])
async def test_the_requirement_is_met(server: Running, requirement: Requirement) -> None:
    await requirement.check(server)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "part", ["corsac.core.service", "corsac.core.service:Part", "GET /livez", "~tts", "docs/decisions"]
)
async def test_a_part_that_is_there_is_found(server: Running, part: str) -> None:
    await require(server, part)


def test_every_item_of_the_plan_is_here_once() -> None:
    assert sorted(each.id for each in PROVED + WAITING) == sorted(points())


def test_the_points_are_the_plans() -> None:
    phases = {phase: sum(each[0] for task, each in PLAN.items() if task[0] == phase) for phase in "12345"}
    assert phases == {"1": 200, "2": 300, "3": 250, "4": 200, "5": 300}
    assert sum(points().values()) == 1250 + sum(sum(bonuses) for _, bonuses in PLAN.values())
