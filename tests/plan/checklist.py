"""The plan's requirements, their points, and the mark that says which of them a check is about."""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from tests.in_process import Running

HOME = Path(__file__).parents[2]
PLAN: dict[str, tuple[int, tuple[int, ...]]] = {
    "1.1": (50, (10, 5)),
    "1.2": (75, (15, 10)),
    "1.3": (50, (10, 5)),
    "1.4": (25, (5, 5)),
    "2.1": (75, (15, 10)),
    "2.2": (75, (15, 10)),
    "2.3": (75, (15, 10)),
    "2.4": (75, (15, 10)),
    "3.1": (75, (15, 10)),
    "3.2": (75, (15, 10)),
    "3.3": (100, (20, 15, 10)),
    "4.1": (75, (15, 10)),
    "4.2": (75, (15, 10)),
    "4.3": (50, (10, 5)),
    "5.1": (100, (20, 15, 10)),
    "5.2": (75, (15, 10)),
    "5.3": (50, (10, 5)),
    "5.4": (75, (15, 10)),
}
"""Task → points of its five requirements together, and of each bonus."""

Check = Callable[[Running], Awaitable[None]]
AnyCheck = TypeVar("AnyCheck", bound=Check)


class NotBuilt(Exception):
    """What a requirement is about does not exist."""


@dataclass(frozen=True)
class Requirement:
    """A line of the plan, `1.1.a` or, for a bonus, `1.1.+1`, with what proves it."""

    id: str
    check: Check

    @property
    def points(self) -> int:
        """What the plan gives for it."""
        return points()[self.id]


def points() -> dict[str, int]:
    """Every requirement of the plan with its points; the five of a task share the task's evenly."""
    found: dict[str, int] = {}
    for task, (together, bonuses) in PLAN.items():
        found |= {f"{task}.{letter}": together // 5 for letter in "abcde"}
        found |= {f"{task}.+{number}": each for number, each in enumerate(bonuses, 1)}
    return found


def proves(requirement: str) -> Callable[[AnyCheck], AnyCheck]:
    """Mark a function as the check of a requirement."""

    def leave(check: AnyCheck) -> AnyCheck:
        check.__requirement__ = requirement  # type: ignore[attr-defined]
        return check

    return leave


def proved_in(module: ModuleType) -> Iterator[Requirement]:
    """The requirements that a module has checks for."""
    for each in vars(module).values():
        if hasattr(each, "__requirement__"):
            yield Requirement(each.__requirement__, each)


async def require(server: Running, part: str) -> None:
    """Raise NotBuilt where a part does not exist.

    Args:
        server: Whose operations are looked through.
        part: `package.module`, `package.module:Name`, `POST /path`, a file, or `~words` that some module's or
            operation's name would contain.
    """
    if part.startswith("~"):
        modules = [str(path.relative_to(HOME / "src")) for path in (HOME / "src").rglob("*.py")]
        names = [*modules, *(route.path for route in server.routes)]
        if not any(re.search(part[1:], name) for name in names):
            raise NotBuilt(part)
    elif " " in part:
        method, path = part.split(" ")
        answer = await server.owner.request(method, path)
        if answer.status_code in (404, 405):
            raise NotBuilt(part)
    elif "/" in part:
        if not (HOME / part).exists():
            raise NotBuilt(part)
    else:
        module, _, name = part.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if f"{module}.".startswith(f"{error.name}."):
                raise NotBuilt(part) from error
            raise
        if name and not hasattr(found, name):
            raise NotBuilt(part)
