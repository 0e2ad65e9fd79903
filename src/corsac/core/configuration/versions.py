"""The history of a configuration: every change is a version, kept in memory or in SQLite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from corsac.core.configuration.views import ConfigVersion
from corsac.core.exceptions import ConfigVersionConflict

if TYPE_CHECKING:
    import apsw

    from corsac.core.storage.database import Database


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version with the values that were set in it. These hold secrets in clear and stay on the server.

    Args:
        entry: What may be shown.
        file: Values from the file, by field, as JSON.
        api: Values set over the API, by field, as JSON.
    """

    entry: ConfigVersion
    file: Mapping[str, Any]
    api: Mapping[str, Any]


class ConfigVersions(Protocol):
    """Where versions are kept. Numbers have no gaps and are never given twice."""

    async def append(self, stored: StoredVersion) -> None:
        """Keep the next version; returns once it is durable.

        Raises:
            ConfigVersionConflict: Its number is not the one after the last.
        """
        ...

    async def find(self, version: int | None) -> StoredVersion | None:
        """The version with this number, or with None the last; None if there is none."""
        ...

    async def latest(self, limit: int) -> list[ConfigVersion]:
        """At most `limit` entries, newest first."""
        ...


class MemoryVersions:
    """Versions that end with the process."""

    def __init__(self) -> None:
        self._stored: list[StoredVersion] = []

    async def append(self, stored: StoredVersion) -> None:
        """Keep the next version."""
        if stored.entry.version != len(self._stored) + 1:
            raise ConfigVersionConflict
        self._stored.append(stored)

    async def find(self, version: int | None) -> StoredVersion | None:
        """The version with this number, or with None the last."""
        number = len(self._stored) if version is None else version
        return self._stored[number - 1] if 1 <= number <= len(self._stored) else None

    async def latest(self, limit: int) -> list[ConfigVersion]:
        """At most `limit` entries, newest first."""
        return [stored.entry for stored in self._stored[::-1][:limit]]


class SqliteVersions:
    """Versions in the table `config_versions`.

    Args:
        service: Whose configuration it is.
        database: Where the table is.
    """

    COLUMNS = "version, at, author, source, overrides, changes, note"

    def __init__(self, service: str, database: Database) -> None:
        self._service = service
        self._database = database

    async def append(self, stored: StoredVersion) -> None:
        """Keep the next version."""
        entry = stored.entry
        shown = entry.model_dump(mode="json")
        row = (
            self._service,
            entry.version,
            shown["at"],
            entry.author,
            entry.source,
            json.dumps({"file": dict(stored.file), "api": dict(stored.api)}),
            json.dumps(shown["changes"]),
            entry.note,
        )

        def insert(connection: apsw.Connection) -> bool:
            last = "(SELECT coalesce(max(version), 0) FROM config_versions WHERE service = ?)"
            connection.execute(
                f"INSERT INTO config_versions (service, {self.COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE {last} = ?",
                (*row, self._service, entry.version - 1),
            )
            return bool(connection.changes())

        if not await self._database.write(insert):
            raise ConfigVersionConflict

    async def find(self, version: int | None) -> StoredVersion | None:
        """The version with this number, or with None the last."""
        rows = await self._select("(? IS NULL OR version = ?) ORDER BY version DESC LIMIT 1", (version, version))
        if not rows:
            return None
        layers = json.loads(rows[0][4])
        return StoredVersion(_entry(rows[0]), layers["file"], layers["api"])

    async def latest(self, limit: int) -> list[ConfigVersion]:
        """At most `limit` entries, newest first."""
        return [_entry(row) for row in await self._select("TRUE ORDER BY version DESC LIMIT ?", (limit,))]

    async def _select(self, condition: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        query = f"SELECT {self.COLUMNS} FROM config_versions WHERE service = ? AND {condition}"  # noqa: S608

        def select(connection: apsw.Connection) -> list[tuple[Any, ...]]:
            return list(connection.execute(query, (self._service, *bindings)))

        return await self._database.read(select)


def _entry(row: tuple[Any, ...]) -> ConfigVersion:
    version, at, author, source, _, changes, note = row
    return ConfigVersion.model_validate(
        {
            "version": version,
            "at": at,
            "author": author,
            "source": source,
            "changes": json.loads(changes),
            "note": note,
        }
    )
