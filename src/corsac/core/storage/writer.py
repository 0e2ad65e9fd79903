"""The one thread that writes to the database."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from corsac.core.exceptions import CorsacError, StorageFailed
from corsac.core.storage.connection import UNIT, Connection, discard, storage_error

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

T = TypeVar("T")

GROUP_UNITS = 500
SLOW_UNIT_S = 0.05
STOP_AFTER = 3

# The comments keep these out of reach of units: APSW's statement cache would hand out a statement with the
# same text without asking the authorizer again.
BEGIN, COMMIT = "BEGIN IMMEDIATE -- writer", "COMMIT -- writer"
SAVEPOINT, RELEASE = f"SAVEPOINT {UNIT} -- writer", f"RELEASE {UNIT} -- writer"
ROLLBACK_UNIT = f"ROLLBACK TO {UNIT} -- writer"


class _TransactionLost(Exception):
    """SQLite rolled the whole transaction back because of one unit, for example on a full disk.

    Args:
        reason: The unit's error.
    """

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Write:
    unit: Callable[[apsw.Connection], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Runs units of work one after the other, those that wait at the same time in one transaction.

    Each unit is a savepoint: one that raises is rolled back alone. When a commit fails, every unit of its
    group gets an error, the connection is opened afresh and `healthy` is False until a commit succeeds. After
    three failures in a row units are refused untried for `probe_s` at a time, to spare a failing disk.

    Args:
        path: The database.
        loop: Where the waiters are.
        logger: Hears of slow units and failed commits.
        probe_s: Seconds after which an unhealthy writer tries a commit of its own.
        monotonic: Clock in seconds.
    """

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        logger: Logger,
        *,
        probe_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.healthy = True
        self._path, self._loop, self._logger = path, loop, logger
        self._probe_s, self._monotonic = probe_s, monotonic
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._connection: Connection | None = Connection(path, writable=True)
        self._failures, self._retry_at = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Put a unit in line; called in the loop's thread.

        Returns:
            Its value once it is durable. Cancelling the future does not cancel the unit.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(unit, future))
        return future

    def close(self) -> None:
        """Store what is in line and end. Blocks; called in another thread than the loop's."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            entries = self._waiting()
            open_ = None not in entries
            group = [entry for entry in entries if entry is not None]
            outcomes = self._store(group) if group or open_ else []
            try:
                self._loop.call_soon_threadsafe(_settle, group, outcomes)
            except RuntimeError:
                self._logger.warning("the event loop closed before a write's answer", n_units=len(group))
        if self._connection is not None:
            discard(self._connection, self._logger)

    def _waiting(self) -> list[_Write | None]:
        """What is in line, up to a group; nothing when it is time to probe. None is the end."""
        try:
            entries = [self._queue.get(timeout=None if self.healthy else self._probe_s)]
            while entries[-1] is not None and len(entries) < GROUP_UNITS and not self._queue.empty():
                entries.append(self._queue.get())
        except queue.Empty:
            return []
        return entries

    def _store(self, group: list[_Write]) -> list[_Outcome]:
        """Run a group in one transaction; without units, see whether a commit succeeds."""
        if self._failures >= STOP_AFTER and self._monotonic() < self._retry_at:
            detail = "Storage failed several times and is left alone for a moment; nothing of this was stored."
            return [_Outcome(error=StorageFailed(detail, retry_after_s=self._probe_s)) for _ in group]
        try:
            connection = self._connection = self._connection or Connection(self._path, writable=True)
            connection.execute(BEGIN)
            outcomes = [self._run_unit(connection, write.unit) for write in group]
            if not group:
                # Writes the first page as it was: a commit without a change would not touch the disk.
                connection.pragma("user_version", connection.pragma("user_version"))
            connection.execute(COMMIT)
        except _TransactionLost as lost:
            if len(group) > 1:
                return [outcome for write in group for outcome in self._store([write])]
            return [_Outcome(error=lost.reason)]
        except BaseException as error:  # whatever it is, this thread has to go on
            self._logger.exception("commit failed", n_units=len(group))
            return [_Outcome(error=failure) for failure in self._fail(error, len(group))]
        self._failures, self.healthy = 0, True
        return outcomes

    def _run_unit(self, connection: Connection, unit: Callable[[apsw.Connection], Any]) -> _Outcome:
        connection.execute(SAVEPOINT)
        started = self._monotonic()
        try:
            outcome = _Outcome(connection.run(unit))
        except BaseException as raised:  # noqa: BLE001 - its waiter gets it; SystemExit must not end the thread
            error = storage_error(raised)
            if error is not None:
                error.__cause__ = raised
            if not connection.in_transaction:
                raise _TransactionLost(error or raised) from None
            connection.execute(ROLLBACK_UNIT)
            outcome = _Outcome(error=error or raised)
        connection.execute(RELEASE)
        if (took_s := self._monotonic() - started) > SLOW_UNIT_S:
            name = getattr(unit, "__qualname__", type(unit).__name__)
            self._logger.warning("slow unit in the writer", unit=name, duration_ms=round(took_s * 1000))
        return outcome

    def _fail(self, error: BaseException, n_units: int) -> list[CorsacError]:
        """Note a failed transaction and open a new connection: SQLite's is in an unknown state."""
        failure = storage_error(error) or StorageFailed()
        self.healthy = False
        if isinstance(failure, StorageFailed):  # a full disk heals by deleting, which has to be let through
            self._failures += 1
            self._retry_at = self._monotonic() + self._probe_s
        if self._connection is not None:
            discard(self._connection, self._logger)
            self._connection = None
        return [type(failure)() for _ in range(n_units)]


def _settle(group: list[_Write], outcomes: list[_Outcome]) -> None:
    for write, outcome in zip(group, outcomes, strict=True):
        if write.future.done():  # its waiter was cancelled
            continue
        error = outcome.error
        if error is None:
            write.future.set_result(outcome.value)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            write.future.set_exception(error)
        else:  # a future does not take these
            failure = RuntimeError(f"A unit raised {type(error).__name__}.")
            failure.__cause__ = error
            write.future.set_exception(failure)
