"""What can still be read of a damaged database, in a new one.

Tables are read by row number past the pages that cannot be: their indexes are not asked, as they may be the damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from corsac.core.exceptions import StorageFailed
from corsac.core.storage.connection import DISK_ERRORS
from corsac.core.storage.damage import find_damage, first_fault
from corsac.core.storage.files import disk_errors, require_room
from corsac.core.storage.restore import replace_database

if TYPE_CHECKING:
    from corsac.core.storage.lock import DataDirectory

FIRST_ROW, LAST_ROW = -(1 << 63), (1 << 63) - 1
SMALL_STEPS = 4096
"""Row numbers that are tried one by one behind a page that cannot be read; then the steps double."""
SCHEMA = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
ROWID_TABLES = "SELECT name, NOT wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
UNREADABLE = (*DISK_ERRORS, apsw.SQLError, UnicodeDecodeError)


class NothingToSave(StorageFailed):
    """Nothing of the database can be read.

    Its first page, which says what else there is, is destroyed. Go back to a backup with `corsac restore`.
    """

    reason = "NOTHING_TO_SAVE"


@dataclass(slots=True)
class Repaired:
    """What became of a damaged database.

    Args:
        damage: What was wrong.
        rows: Rows that were saved, by table.
        gaps: Places where reading failed and went on behind them, by table; how many rows were there is unknown.
        n_refused: Rows that were read and broke a rule of the schema.
        aside: The folder that has the damaged files.
    """

    damage: str
    rows: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    n_refused: int = 0
    aside: Path = field(default_factory=Path)


def repair_database(directory: DataDirectory) -> Repaired | None:
    """Replace a damaged database by what can be read of it. The directory's lock is held by the caller.

    Args:
        directory: Has the database; the damaged one is kept as `backups/broken-<time>`.

    Returns:
        What was saved; None: nothing is wrong with it, and nothing was changed.

    Raises:
        NothingToSave: It cannot be read at all, and was left as it is.
        StorageFull, StorageFailed: The disk is full or failed.
    """
    damage = find_damage(directory.database) or _index_damage(directory.database)
    if damage is None:
        return None
    repaired = Repaired(damage)
    fresh = directory.database.with_suffix(".repaired")
    fresh.unlink(missing_ok=True)
    with disk_errors():
        require_room(directory.root, directory.database.stat().st_size)
        try:
            _save(directory.database, fresh, repaired)
        except UNREADABLE as error:
            fresh.unlink(missing_ok=True)
            raise NothingToSave(f"Nothing of the database can be read: {error}.") from error
        repaired.aside = replace_database(directory, fresh, "broken")
    return repaired


def _index_damage(path: Path) -> str | None:
    if not path.exists():
        return None
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return first_fault(connection)
    finally:
        connection.close()


def _save(damaged: Path, fresh: Path, repaired: Repaired) -> None:
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL, 0o600))
    source = apsw.Connection(str(damaged), flags=apsw.SQLITE_OPEN_READONLY)
    source.pragma("writable_schema", True)  # else SQLite reads nothing of a file that is too short, or of a bad schema
    target = apsw.Connection(str(fresh), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        schema = source.execute(SCHEMA).fetchall()
        numbered = {str(name): bool(by_rowid) for name, by_rowid in source.execute(ROWID_TABLES)}
        with target:
            for kind in ("table", "index"):
                for _, _, sql in (each for each in schema if each[0] == kind):
                    target.execute(str(sql))
            for name in (str(name) for kind, name, _ in schema if kind == "table"):
                _save_table(source, target, name, repaired, by_number=numbered[name])
            _remove_orphans(target, repaired)
            for _, _, sql in (each for each in schema if each[0] not in ("table", "index")):
                target.execute(str(sql))
        target.pragma("user_version", source.pragma("user_version"))
        if fault := first_fault(target):
            raise apsw.CorruptError(fault)
    finally:
        target.close()
        source.close(True)


def _save_table(
    source: apsw.Connection, target: apsw.Connection, name: str, repaired: Repaired, *, by_number: bool
) -> None:
    described = target.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
    columns = [_quoted(str(column)) for column, _ in described]
    if by_number:
        rows = _by_number(source, name, ["rowid", *columns], repaired)
        columns = ["rowid", *columns]  # others may refer to it
    else:
        keys = [_quoted(str(column)) for column, pk in sorted(described, key=lambda each: int(str(each[1]))) if pk]
        rows = _from_both_ends(source, name, columns, keys, repaired)
    insert = f"INSERT INTO {_quoted(name)}({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    repaired.rows[name] = 0
    for row in rows:
        try:
            target.execute(insert, row)
            repaired.rows[name] += 1
        except apsw.ConstraintError:
            repaired.n_refused += 1


def _by_number(db: apsw.Connection, name: str, columns: list[str], repaired: Repaired) -> Iterator[tuple[Any, ...]]:
    select = f"SELECT {', '.join(columns)} FROM {_quoted(name)} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"  # noqa: S608
    next_row: int | None = FIRST_ROW
    while next_row is not None:
        try:
            for row in db.execute(select, (next_row,)):
                yield row
                next_row = int(str(row[0])) + 1
            return
        except UNREADABLE:
            repaired.gaps[name] = repaired.gaps.get(name, 0) + 1
            next_row = _behind_gap(db, f"{select} LIMIT 1", next_row)


def _from_both_ends(
    db: apsw.Connection, name: str, columns: list[str], keys: list[str], repaired: Repaired
) -> Iterator[tuple[Any, ...]]:
    """The rows of a table without row numbers, up to its damage and back from the end to it."""
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{key} {direction}" for key in keys)
        try:
            yield from db.execute(f"SELECT {', '.join(columns)} FROM {_quoted(name)} ORDER BY {order}")  # noqa: S608
            return
        except UNREADABLE:
            repaired.gaps[name] = 1


def _behind_gap(db: apsw.Connection, probe: str, unreadable: int) -> int | None:
    """The first row number behind an unreadable one from which reading works; None: there is none."""

    def works(row: int) -> bool:
        try:
            db.execute(probe, (row,)).fetchall()
        except UNREADABLE:
            return False
        return True

    for row in range(unreadable + 1, unreadable + SMALL_STEPS):
        if works(row):
            return row
    low, step = unreadable + SMALL_STEPS, SMALL_STEPS
    while not works(min(low + step, LAST_ROW)):
        if low + step >= LAST_ROW:
            return None
        low, step = low + step, step * 2
    high = min(low + step, LAST_ROW)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _remove_orphans(db: apsw.Connection, repaired: Repaired) -> None:
    """Remove rows whose parents were lost, and then theirs."""
    removed = True
    while removed:
        removed = False
        for name in repaired.rows:
            for parent, pairs in _references(db, name).items():
                same = " AND ".join(f"parent.{_quoted(theirs)} = child.{_quoted(ours)}" for ours, theirs in pairs)
                some = " AND ".join(f"child.{_quoted(ours)} IS NOT NULL" for ours, _ in pairs)
                found = f"NOT EXISTS (SELECT 1 FROM {_quoted(parent)} AS parent WHERE {same})"  # noqa: S608
                db.execute(f"DELETE FROM {_quoted(name)} AS child WHERE {some} AND {found}")  # noqa: S608
                repaired.rows[name] -= db.changes()
                repaired.n_refused += db.changes()
                removed = removed or db.changes() > 0


def _references(db: apsw.Connection, name: str) -> dict[str, list[tuple[str, str]]]:
    """Parent tables of a table, with its columns and theirs."""
    found: dict[str, list[tuple[str, str]]] = {}
    query = 'SELECT "table", "from", "to" FROM pragma_foreign_key_list(?) WHERE "to" IS NOT NULL'
    for parent, ours, theirs in db.execute(query, (name,)):
        found.setdefault(str(parent), []).append((str(ours), str(theirs)))
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
