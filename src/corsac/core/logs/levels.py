"""The standard levels, and which of them each service logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType

from corsac.core.exceptions import FieldError, InvalidChoice, InvalidId

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
        "critical": logging.CRITICAL,
    }
)
"""Names of the levels and their standard numbers, least first."""
ROOT = "root"
"""Stands for every service without a level of its own, and is the service of lines that have none."""
SOURCE_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def level_number(level: str, pointer: str = "/level") -> int:
    """The number of a level.

    Args:
        level: debug, info, warning, error or critical.
        pointer: Where the client wrote it.

    Raises:
        InvalidChoice: There is no such level; the error lists them.
    """
    try:
        return LEVELS[level]
    except KeyError:
        detail = f"The level must be one of {', '.join(LEVELS)}."
        raise InvalidChoice(detail, errors=(FieldError(pointer, InvalidChoice.reason, detail),)) from None


def level_name(number: int) -> str:
    """The highest level that is not above `number`, `debug` at least."""
    return next((name for name, least in reversed(list(LEVELS.items())) if number >= least), "debug")


class ServiceLevels:
    """The least level that is logged, per service. Changes are seen by every thread at once.

    Args:
        root: The level of services without one of their own.

    Raises:
        InvalidChoice: There is no such level.
    """

    def __init__(self, root: str) -> None:
        self._root = level_number(root)
        self._services: dict[str, int] = {}

    def allows(self, service: str, number: int) -> bool:
        """Whether a line of `service` with this level's number is logged."""
        return number >= self._services.get(service, self._root)

    def set(self, service: str, level: str) -> None:
        """Log lines of `service` (or `root`) from `level` on.

        Raises:
            InvalidChoice: There is no such level.
            InvalidId: The service's name cannot be one.
        """
        number = level_number(level)
        if not SOURCE_NAME.fullmatch(service):
            raise InvalidId("A service's name is 1 to 64 letters, digits, underscores, dots, colons or hyphens.")
        if service == ROOT:
            self._root = number
        else:
            self._services = {**self._services, service: number}

    def names(self) -> dict[str, str]:
        """The level of `root` and of each service that has one of its own."""
        own = {service: level_name(number) for service, number in sorted(self._services.items())}
        return {ROOT: level_name(self._root), **own}
