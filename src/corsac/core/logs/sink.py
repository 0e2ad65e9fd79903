"""The one place where all log lines go: a bounded queue and the thread that writes."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

from structlog.contextvars import merge_contextvars

from corsac.core.call import CURRENT_CALL
from corsac.core.health_checks import Check
from corsac.core.logs.levels import LEVELS, ROOT, ServiceLevels
from corsac.core.logs.line import KEPT_CHARS, LineFormat, rfc3339, snapshot, traceback_of
from corsac.core.logs.store import LogStore

QUEUE_LINES = 10_000
BATCH_LINES = 64
GATHER_S = 0.02
REPORT_DROPPED_S = 10.0
CLOSE_S = 5.0
_OURS = frozenset({"time", "level"})


class LogOutput(Protocol):
    """A place where lines are written, by one thread."""

    @property
    def place(self) -> str:
        """Its name where lost lines are counted."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Write JSON lines and return how many of them were lost. Never waits long."""

    def close(self) -> None:
        """Give back what is held."""


class _Rendered(NamedTuple):
    """A line that only has to be written."""

    line: bytes
    at: float
    level: str
    service: str


class LogSink:
    """Takes events from any thread at the cost of a dict, and writes them in a thread of its own.

    Who logs never waits: when the queue is full or an output fails, lines are dropped and counted, and the log says
    how many once it can.

    Args:
        outputs: Where lines are written.
        line_format: Renders and redacts them.
        levels: Which lines are wanted.
        store: Keeps the recent lines.
        capacity: Events that may wait.
        now: Seconds since the epoch.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        outputs: Sequence[LogOutput],
        *,
        line_format: LineFormat,
        levels: ServiceLevels,
        store: LogStore | None = None,
        capacity: int = QUEUE_LINES,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_close = ExitStack()
        """What `close` undoes before it stops the writer."""
        self._outputs = tuple(outputs)
        self._line_format = line_format
        self._levels = levels
        self._store = store
        self._capacity = capacity
        self._now = now
        self._monotonic = monotonic
        # A queue without Python locks, so that a signal or a finalizer may log in the middle of a log call.
        self._queue: queue.SimpleQueue[dict[str, Any] | _Rendered | threading.Event | None] = queue.SimpleQueue()
        self._refusals = itertools.count(1)
        self._n_refused = self._n_refused_seen = 0
        self._n_lost = self._n_reported = 0
        self._next_report = float("-inf")
        self._broken: set[str] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="corsac-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost since the start; one that two places have lost counts twice."""
        return self._n_lost + self._n_refused - self._n_refused_seen

    async def check(self) -> Sequence[Check]:
        """Whether every line was written."""
        lost = self.dropped
        return [Check("log:lines-lost", "warn" if lost else "pass", float(lost), "lines")]

    def levels(self) -> dict[str, str]:
        """The least level that is logged, for `root` (every service) and for services with one of their own."""
        return self._levels.names()

    def set_level(self, service: str, level: str) -> None:
        """Log lines of one service from `level` on, at once.

        Args:
            service: A service, an API, the first part of a library's logger name, or `root` for all others.
            level: debug, info, warning, error or critical.

        Raises:
            InvalidChoice: There is no such level; the error lists them.
            InvalidId: The service's name cannot be one.
        """
        self._levels.set(service, level)
        library = logging.getLogger(None if service == ROOT else service)
        self.on_close.callback(library.setLevel, library.level)
        library.setLevel(LEVELS[level])

    def take(self, _: object, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """The processor that structlog calls; it leaves structlog nothing to do."""
        self.submit(method, event, self._now())
        return (), {}

    def submit(self, level: str, event: MutableMapping[str, Any], at: float) -> None:
        """Hand one event to the writer; the present call and the context variables are added to it.

        Args:
            level: One of the standard levels.
            event: What happened. `service` says whose line it is, `exc_info` asks for a traceback.
            at: When, seconds since the epoch.
        """
        event = merge_contextvars(None, level, event)
        call = CURRENT_CALL.get(None)
        if call is not None:
            for key, value in call.log_context():
                event.setdefault(key, value)
        service = str(event.get("service") or event.get("api") or ROOT)
        if not self._levels.allows(service, LEVELS[level]):
            return
        if self._closed or self._queue.qsize() >= self._capacity:
            self._n_refused = next(self._refusals)
            return
        taken: dict[str, Any] = {"time": at, "level": level, "service": service, "event": ""}
        for key, value in event.items():
            kind = type(value)
            if value is None or key == "service":
                continue
            if key in _OURS:
                key += "_"  # noqa: PLW2901 - a caller's value never replaces ours
            if key == "exc_info":
                if (trace := traceback_of(value)) is not None:
                    taken["exception"] = trace
            elif (kind is str and len(value) < KEPT_CHARS) or kind is int or kind is float or kind is bool:
                taken[key] = value
            else:
                taken[key] = snapshot(value)
        # Rendered here where that is quick: done by the writer, it would take the interpreter's lock from requests.
        line = self._line_format.plain_line(taken)
        self._queue.put(taken if line is None else _Rendered(line, at, level, service))

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until everything logged so far is written; False when it was not within `timeout_s`."""
        written = threading.Event()
        self._queue.put(written)
        return not self._closed and written.wait(timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, and end. Later lines are dropped and counted."""
        if self._closed:
            return
        self.on_close.close()
        self._closed = True
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        ending = False
        while not ending:
            batch = [self._queue.get()]
            # Rendering holds the interpreter's lock and requests wait for that, so batches are short; and waking up at
            # every line would take the lock away from the event loop at every request, so they gather for a moment.
            if self._queue.qsize() < BATCH_LINES and not self._closed:
                time.sleep(GATHER_S)
            while len(batch) < BATCH_LINES and not self._queue.empty():
                batch.append(self._queue.get())
            ending = None in batch
            self._write([self._line(each) for each in batch if isinstance(each, dict | _Rendered)], ending)
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()
        for output in self._outputs:
            output.close()

    def _write(self, lines: list[bytes], ending: bool) -> None:
        n_refused = self._n_refused - self._n_refused_seen
        self._n_refused_seen += n_refused
        self._count_lost("queue", n_refused)
        if self._n_lost > self._n_reported and (ending or self._monotonic() >= self._next_report):
            self._next_report = self._monotonic() + REPORT_DROPPED_S
            n_lines, self._n_reported = self._n_lost - self._n_reported, self._n_lost
            lines.append(self._render(self._own_event("warning", "log lines dropped", n_lines=n_lines)))
        if not lines:
            return
        for output in self._outputs:
            try:
                n_lost = output.write(lines)
                self._broken.discard(output.place)
            except Exception:  # noqa: BLE001 - logged with its traceback
                # The thread that logs must not die of it; the other places say what happened, once.
                n_lost = len(lines)
                if output.place not in self._broken:
                    self._broken.add(output.place)
                    self._queue.put(self._own_event("error", "log output failed", exception=traceback_of(True)))
            self._count_lost(output.place, n_lost)

    def _line(self, waiting: dict[str, Any] | _Rendered) -> bytes:
        if isinstance(waiting, dict):
            return self._render(waiting)
        if self._store is not None:
            self._store.add(waiting.line, at=waiting.at, level=waiting.level, service=waiting.service)
        return waiting.line

    def _render(self, event: dict[str, Any]) -> bytes:
        at, level = event["time"], event["level"]
        try:
            line, shown = self._line_format.json_line({**event, "time": rfc3339(at)})
        except Exception:  # noqa: BLE001 - logged with its traceback
            failure = self._own_event("error", "log line failed", exception=traceback_of(True))
            line, shown = self._line_format.json_line({**failure, "time": rfc3339(self._now())})
        if self._store is not None:
            self._store.add(line, at=at, level=level, service=shown["service"])
        return line

    def _count_lost(self, place: str, n_lines: int) -> None:
        self._n_lost += n_lines
        if n_lines and self._store is not None:
            self._store.count_dropped(place, n_lines)

    def _own_event(self, level: str, event: str, **values: Any) -> dict[str, Any]:
        return {"time": self._now(), "level": level, "service": ROOT, "event": event, **values}
