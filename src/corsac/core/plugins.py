"""Finds services and engines: entry points of installed packages. Ours come the same way as everybody's."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

SERVICES = "corsac.services"
ENGINES = "corsac.engines."


class PluginView(BaseModel):
    """Where a service or an engine came from, and why it did not load if it did not."""

    model_config = ConfigDict(frozen=True)

    group: str
    name: str
    target: str
    distribution: str
    version: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Plugin:
    """A loaded entry point.

    Args:
        view: What the registry shows of it.
        loaded: What the entry point names; None where loading failed.
    """

    view: PluginView
    loaded: Any = None


def discover(points: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """All services and engines of the installed packages.

    Args:
        points: Replaces those of the installed packages in tests.

    Returns:
        One plugin for each entry point, by group and name. One that cannot be loaded carries its traceback; the
        others stand.
    """
    known = _installed() if points is None else points
    found = [each for each in known if _is_ours(each.group)]
    return [_load(each) for each in sorted(found, key=lambda each: (each.group, each.name))]


def _installed() -> Iterator[EntryPoint]:
    installed = entry_points()
    for group in installed.groups:
        yield from installed.select(group=group)


def _is_ours(group: str) -> bool:
    return group == SERVICES or group.startswith(ENGINES)


def _load(point: EntryPoint) -> Plugin:
    package = point.dist
    place = {
        "group": point.group,
        "name": point.name,
        "target": point.value,
        "distribution": (package and package.name) or "",
        "version": (package and package.version) or "",
    }
    try:
        return Plugin(PluginView(**place), point.load())
    except BaseException as error:
        # Foreign code may raise anything, SystemExit included; the registry shows what it was.
        if isinstance(error, KeyboardInterrupt):
            raise
        return Plugin(PluginView(**place, error=traceback.format_exc(limit=-3)))
