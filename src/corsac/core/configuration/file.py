"""`corsac.toml`: read with suspicion, watched, and applied as a whole or not at all."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchfiles import awatch

from corsac.core.config_store import ConfigStore
from corsac.core.exceptions import CorsacError, StartRefused
from corsac.core.health_checks import Check

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

MAX_BYTES = 1 << 20
MAX_DOTS = 200
"""In a line: tomllib's time is quadratic in the parts of a dotted key, 7.7 s for 20,000 of them."""
SETTLE_MS = 200
"""Of quiet before a changed file is read, so that an editor has finished writing it."""
TABLES = ("server", "services", "engines")


class ConfigFileRefused(StartRefused):
    """corsac.toml cannot be used.

    Exit code 78 at the start. While the server runs the configuration in force stays, and health shows why.
    """


@dataclass(frozen=True, slots=True)
class FileContents:
    """What the file sets.

    Args:
        server: Setting → value, from `[server]`; counts at the start only.
        services: Service → field → value, from `[services.<service>]`.
        engines: Kind → engine → option → value, from `[engines.<kind>.<engine>]`.
    """

    server: Mapping[str, Any] = field(default_factory=dict)
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that was refused while the server ran.

    Args:
        detail: A sentence that says why, without a path or a value.
        at: When, UTC.
    """

    detail: str
    at: datetime


class ConfigFile:
    """The configuration file of a data directory. Nothing here writes it.

    Args:
        path: Where it is or may be one day.
        logger: Takes a line per refused and per applied file.
        on_rejection: Told of every refused file.
        now: The present time, UTC.
    """

    def __init__(
        self,
        path: Path,
        *,
        logger: Logger,
        on_rejection: Callable[[Rejection], Awaitable[None]] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path = path
        self.rejection: Rejection | None = None
        self._logger = logger
        self._on_rejection = on_rejection
        self._now = now
        self._lock = asyncio.Lock()

    def read(self) -> FileContents:
        """What the file sets now; nothing if there is no file. Blocks for as long as the disk takes.

        Raises:
            ConfigFileRefused: It is not a regular file of at most 1 MiB of TOML, or has a table that does
                not exist.
        """
        return read_config_file(self.path)

    async def reload(self, stores: Mapping[str, ConfigStore[Any]]) -> Rejection | None:
        """Apply the file to the stores if all of it is good. Also what SIGHUP does.

        Args:
            stores: Service → its configuration. A service without a table gets none of its values from the
                file.

        Returns:
            Why it was refused, else None; also kept as `rejection`.
        """
        async with self._lock:
            try:
                await self._apply(stores)
            except CorsacError as error:
                self.rejection = Rejection(error.detail, self._now())
                self._logger.error("configuration file refused", detail=error.detail)
                if self._on_rejection is not None:
                    await self._on_rejection(self.rejection)
            else:
                self.rejection = None
                self._logger.info("configuration file applied")
            return self.rejection

    async def check(self) -> Sequence[Check]:
        """Whether the file was taken when it was last read."""
        if self.rejection is None:
            return [Check("config:file", "pass")]
        return [Check("config:file", "warn", output=self.rejection.detail, time=self.rejection.at)]

    async def watch(self, stores: Mapping[str, ConfigStore[Any]]) -> None:
        """Reload whenever the file changes, until cancelled.

        The folder is watched, not the file, because editors write a new file and rename it.
        """
        name = self.path.name
        changes = awatch(
            self.path.parent,
            watch_filter=lambda _change, path: os.path.basename(path) == name,
            step=SETTLE_MS,
            recursive=False,
        )
        async for _ in changes:
            try:
                await self.reload(stores)
            except Exception:
                self._logger.exception("configuration reload failed")

    async def _apply(self, stores: Mapping[str, ConfigStore[Any]]) -> None:
        """Check everything, then change everything: what is refused for one service is refused for all."""
        try:
            contents = await asyncio.to_thread(_contents, self.path)
        except FileNotFoundError:
            if any(store.file_values for store in stores.values()):
                raise ConfigFileRefused("corsac.toml is gone; what it set stays until the next start.") from None
            return
        for service in contents.services:
            _refuse_unknown(service, stores, "services.")
        tables = {service: contents.services.get(service, {}) for service in stores}
        for service, table in tables.items():
            with _naming(service):
                stores[service].check_file_values(table)
        for service, table in tables.items():
            with _naming(service):
                await stores[service].set_file_values(table)


def read_config_file(path: Path) -> FileContents:
    """What the file sets; see `ConfigFile.read`."""
    try:
        return _contents(path)
    except FileNotFoundError:
        return FileContents()


def _contents(path: Path) -> FileContents:
    try:
        text = _text(path)
    except FileNotFoundError:
        raise
    except OSError:
        raise ConfigFileRefused("corsac.toml cannot be read; check its permissions.") from None
    document = _parsed(text)
    for name in document:
        _refuse_unknown(name, TABLES)
    server = document.get("server", {})
    if not isinstance(server, dict):
        raise ConfigFileRefused("corsac.toml must hold a table in [server].")
    kinds = _tables(document.get("engines", {}), "engines")
    return FileContents(
        server=server,
        services=_tables(document.get("services", {}), "services"),
        engines={kind: _tables(engines, f"engines.{kind}") for kind, engines in kinds.items()},
    )


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a FIFO is opened once somebody writes to it


def _text(path: Path) -> str:
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigFileRefused("corsac.toml is not a regular file.")
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ConfigFileRefused("corsac.toml is larger than 1 MiB.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigFileRefused(f"corsac.toml is not UTF-8 text at byte {error.start}.") from None


def _parsed(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise ConfigFileRefused(f"corsac.toml has more than {MAX_DOTS} dots in line {number}; break it up.")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        place = re.search(r"line \d+, column \d+", str(error))
        raise ConfigFileRefused(f"corsac.toml is not TOML: {place[0] if place else 'at its end'}.") from None


def _tables(value: Any, name: str) -> dict[str, dict[str, Any]]:
    """`value` if it is a table of tables."""
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ConfigFileRefused(f"corsac.toml must hold only tables in [{name}].")
    return value


def _refuse_unknown(name: str, known: Iterable[str], above: str = "") -> None:
    names = sorted(known)
    if name in names:
        return
    nearest = get_close_matches(name, names, n=1) or names
    raise ConfigFileRefused(
        f"corsac.toml has a table in [{above.rstrip('.') or 'its top level'}] that does not exist; "
        f"nearest: {', '.join(above + each for each in nearest)}."
    )


@contextmanager
def _naming(service: str) -> Iterator[None]:
    """Refusals within say which table they are about."""
    try:
        yield
    except CorsacError as error:
        raise ConfigFileRefused(f"corsac.toml, table services.{service}: {error.detail}") from error
