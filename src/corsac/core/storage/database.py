"""SQLite behind one writer thread and a few readers.

Every write waits for the disk, but writes that wait at the same time share one commit.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import apsw

from corsac.core.exceptions import ShuttingDown, StartRefused, StorageFailed
from corsac.core.storage.backup import newest_backup
from corsac.core.storage.connection import DISK_ERRORS, Connection, discard
from corsac.core.storage.damage import find_damage
from corsac.core.storage.migrations import migrate
from corsac.core.storage.writer import Writer

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

T = TypeVar("T")

MIGRATIONS = ("corsac.core.storage.migrations",)
N_READERS = 2
PROBE_S = 5.0


class DatabaseUnusable(StartRefused):
    """The database cannot be opened.

    Exit code 74: the message says what was found; `corsac repair` saves what can be read, `corsac restore` goes back to
    a backup.
    """

    exit_code = 74


class Database:
    """The database of one data directory.

    Example:
        >>> database = Database(directory.database, logger=logger)
        >>> await database.open()
        >>> await database.write(lambda db: db.execute("DELETE FROM sessions").fetchall())
        >>> await database.read(lambda db: db.execute("SELECT id FROM api_keys").fetchall())

    Args:
        path: The file; made by `open`. Backups go into the folder `backups` beside it.
        logger: Hears of slow units and failed commits.
        migrations: Packages with the steps of the schema.
        probe_s: Seconds between attempts to write again after a failure.
        monotonic: Clock in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        logger: Logger,
        migrations: Sequence[str] = MIGRATIONS,
        probe_s: float = PROBE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._logger, self._migrations = path, logger, migrations
        self._probe_s, self._monotonic = probe_s, monotonic
        self._writer: Writer | None = None
        self._readers = ThreadPoolExecutor(N_READERS, thread_name_prefix="database-reader")
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    @property
    def healthy(self) -> bool:
        """Whether writes are stored: it is open and the last commit succeeded."""
        return self._writer is not None and self._writer.healthy

    async def open(self) -> None:
        """Open it, bring its schema up to date and start the threads.

        Raises:
            SchemaTooNew: A newer version of corsac made it.
            DatabaseUnusable: It is damaged, cannot be read or written, or the disk is full.
        """
        loop = asyncio.get_running_loop()
        self._writer = await asyncio.to_thread(self._prepare, loop)

    async def write(self, unit: Callable[[apsw.Connection], T]) -> T:
        """Change something.

        The unit runs in the writer's thread, after all that were asked for earlier. If it raises, what it did
        is rolled back. Cancelling the wait does not cancel the unit.

        Args:
            unit: Gets the connection, inside a transaction that it cannot end. It takes less than 50 ms and
                touches nothing but the database, because after a failure it may be run a second time.

        Returns:
            What the unit returned, once it is on the disk.

        Raises:
            StorageFull: The disk is full; nothing was stored.
            StorageFailed: The disk failed; whether it was stored is unknown until it is read again.
            ShuttingDown: The database is closed.
            Exception: Whatever the unit raised.
        """
        if self._writer is None:
            raise ShuttingDown
        return await self._writer.submit(unit)

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Look something up.

        Args:
            query: Gets a read-only connection; all its statements see the same snapshot.

        Returns:
            What the query returned.

        Raises:
            StorageFailed: The database cannot be read.
            ShuttingDown: The database is closed.
            Exception: Whatever the query raised.
        """
        if self._writer is None:
            raise ShuttingDown
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._query, query)

    async def close(self) -> None:
        """Store what waits to be written and close the file. Closing twice does no harm."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(self._finish, writer)

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> Writer:
        try:
            if damage := find_damage(self._path):
                raise self._unusable(damage)
            # SQLite gives its log the permissions of the database.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = Connection(self._path, writable=True)
            try:
                migrate(connection, self._migrations, self._path.parent / "backups")
            finally:
                connection.close()
            writer = Writer(self._path, loop, self._logger, probe_s=self._probe_s, monotonic=self._monotonic)
            for _ in range(N_READERS):
                self._idle.put(Connection(self._path, writable=False))
        except (OSError, *DISK_ERRORS) as error:
            raise self._unusable(str(error)) from error
        return writer

    def _unusable(self, why: str) -> DatabaseUnusable:
        backups = self._path.parent / "backups"
        newest = newest_backup(backups)
        way_back = f"`corsac restore {newest} --force` goes back to it" if newest else f"{backups} has none"
        return DatabaseUnusable(
            f"The database {self._path} cannot be opened: {why}.",
            hint=f"Check the disk and the permissions. `corsac repair` saves what can be read of a "
            f"damaged database; the newest backup: {way_back}.",
        )

    def _query(self, query: Callable[[apsw.Connection], T]) -> T:
        connection = self._idle.get()
        try:
            connection.execute("BEGIN")
            try:
                return connection.run(query)
            finally:
                connection.execute("ROLLBACK")
        except DISK_ERRORS as error:
            raise StorageFailed("The server could not read its database.") from error
        finally:
            self._idle.put(connection)

    def _finish(self, writer: Writer) -> None:
        self._readers.shutdown()
        while not self._idle.empty():
            discard(self._idle.get(), self._logger)
        writer.close()
