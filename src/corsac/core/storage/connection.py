"""An SQLite connection set up for durability, on which work can be run that cannot end its transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import apsw

from corsac.core.exceptions import CorsacError, StorageFailed, StorageFull

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

T = TypeVar("T")

UNIT = "corsac_unit"
"""Name of the savepoint around a unit."""
BUSY_MS = 5000
WAL_LIMIT_BYTES = 64 << 20
DISK_ERRORS = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
)
"""What SQLite raises because of the disk or the file, and not because of a statement."""


class Connection(apsw.Connection):
    """A connection to the database.

    Writable ones use a write-ahead log, and a commit on them returns once it is on the disk.

    Args:
        path: The database; an empty file is one without tables.
        writable: Whether it may write.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        super().__init__(str(path), flags=apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY)
        self._cursors: list[apsw.Cursor] = []
        self._in_work = False
        self.cursor_factory = self._open_cursor
        self.set_busy_timeout(BUSY_MS)
        self.pragma("foreign_keys", True)
        if writable:
            self.pragma("journal_mode", "wal")
            self.pragma("synchronous", 2)
            self.pragma("journal_size_limit", WAL_LIMIT_BYTES)
            if sys.platform == "darwin":
                self.pragma("fullfsync", True)
                self.pragma("checkpoint_fullfsync", True)
        self.authorizer = self._authorize

    def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Call `work` in the caller's transaction, which it can neither end nor leave cursors open in.

        An open cursor would keep a reader's snapshot, and so the write-ahead log growing, and fail a writer's
        RELEASE.

        Raises:
            TypeError: It returned a cursor.
            apsw.AuthError: It tried to begin, commit or roll back.
        """
        self._in_work = True
        try:
            value = work(self)
            if isinstance(value, apsw.Cursor):
                raise TypeError("A unit or query returns values, for example those of fetchall(), not a cursor.")
            return value
        finally:
            self._in_work = False
            while self._cursors:
                self._cursors.pop().close(True)

    def _open_cursor(self, connection: apsw.Connection) -> apsw.Cursor:
        cursor = apsw.Cursor(connection)
        if self._in_work:
            self._cursors.append(cursor)
        return cursor

    def _authorize(self, action: int, _first: str | None, second: str | None, *_: str | None) -> int:
        ends = action == apsw.SQLITE_TRANSACTION or (action == apsw.SQLITE_SAVEPOINT and second == UNIT)
        return apsw.SQLITE_DENY if self._in_work and ends else apsw.SQLITE_OK


def discard(connection: apsw.Connection, logger: Logger) -> None:
    """Close a connection whatever the disk says: what was acknowledged does not depend on it.

    Args:
        connection: Open or closed.
        logger: Hears of the disk's errors.
    """
    try:
        connection.close(True)
    except apsw.Error:
        logger.exception("a connection to the database closed with an error")


def storage_error(error: BaseException) -> CorsacError | None:
    """What a client is told about an error of SQLite; None if it is not the disk's fault.

    Args:
        error: Raised by a statement.
    """
    if isinstance(error, apsw.FullError):
        return StorageFull()
    return StorageFailed() if isinstance(error, DISK_ERRORS) else None
