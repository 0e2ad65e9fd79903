"""Structured logging: what a service logs, and the one place where all lines go."""

from __future__ import annotations

import atexit
import itertools
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

import structlog
from structlog.contextvars import merge_contextvars
from structlog.typing import FilteringBoundLogger

from corsac.core.log_file import LogFile
from corsac.core.log_levels import LEVELS, ROOT, ServiceLevels, level_name
from corsac.core.log_line import KEPT_CHARS, LineFormat, pretty_line, rfc3339, snapshot, traceback_of
from corsac.core.log_store import LogStore
from corsac.core.log_stream import LogStream
from corsac.core.redaction import SecretRedactor

Logger = FilteringBoundLogger
"""What every part logs with: `logger.info("model loaded", model=name, seconds=1.5)`. Words first, values by name."""

QUEUE_LINES = 10_000
BATCH_LINES = 64
REPORT_DROPPED_S = 10.0
CLOSE_S = 5.0
QUIET_LIBRARIES = ("httpx", "httpcore", "watchfiles")


def get_service_logger(service_name: str) -> Logger:
    """A logger whose lines carry `service`.

    It follows the configuration of the moment in which it logs, so it may be made at any time; before
    `configure_logging` it prints to the terminal.

    Args:
        service_name: The service's name; its level is `LogSink.set_level(service_name, …)`.
    """
    logger: Logger = structlog.get_logger(service=service_name)
    return logger


def get_api_logger(api_name: str) -> Logger:
    """A logger whose lines carry `api`; of lines that name no service, `api_name` is the service as well.

    Args:
        api_name: The API's name, for example `http` or `openai`.
    """
    logger: Logger = structlog.get_logger(api=api_name)
    return logger


class LogOutput(Protocol):
    """A place where lines are written, by one thread."""

    place: str

    def write(self, lines: Sequence[bytes]) -> int:
        """Write JSON lines and return how many of them were lost. Never waits long."""

    def close(self) -> None:
        """Give back what is held."""


class LogSink:
    """Takes events from any thread at the cost of a dict and writes them in a thread of its own.

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
        self.outputs = tuple(outputs)
        self.on_close = ExitStack()
        self._line_format = line_format
        self._levels = levels
        self._store = store
        self._capacity = capacity
        self._now = now
        self._monotonic = monotonic
        # C code without locks of its own, so that a signal or a finalizer may log in the middle of a log call.
        self._queue: queue.SimpleQueue[dict[str, Any] | threading.Event | None] = queue.SimpleQueue()
        self._refusals = itertools.count(1)
        self._n_refused = 0
        self._n_lost = 0
        self._n_reported = self._n_refused_counted = 0
        self._next_report = float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="corsac-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost since the start; one that two places have lost counts twice."""
        return self._n_refused + self._n_lost

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
        logging.getLogger(None if service == ROOT else service).setLevel(LEVELS[level])

    def take(self, _: object, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """The processor that structlog calls: hands the event over, and nothing is left to do for structlog."""
        self.submit(method, event, self._now())
        return (), {}

    def submit(self, level: str, event: MutableMapping[str, Any], at: float) -> None:
        """Hand one event to the writer.

        Args:
            level: One of the standard levels.
            event: What happened. `service` says whose line it is, `exc_info` asks for a traceback.
            at: When, seconds since the epoch.
        """
        service = event.get("service") or event.get("api") or ROOT
        if not self._levels.allows(service, LEVELS[level]):
            return
        if self._closed or self._queue.qsize() >= self._capacity:
            self._n_refused = next(self._refusals)
            return
        taken: dict[str, Any] = {"time": at, "level": level, "service": service, "event": ""}
        for key, value in merge_contextvars(None, level, event).items():
            kind = type(value)
            if key in _OURS or value is None:
                continue
            if key == "exc_info":
                taken["exception"] = traceback_of(value)
            elif (kind is str and len(value) < KEPT_CHARS) or kind is int or kind is float or kind is bool:
                taken[key] = value
            else:
                taken[key] = snapshot(value)
        self._queue.put(taken)

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until everything logged so far is written; False when it was not within `timeout_s`."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, and end. Later lines are dropped and counted."""
        if self._closed:
            return
        self._closed = True
        self.on_close.close()
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while True:
            batch = [self._queue.get()]
            # Short batches: this thread holds the interpreter's lock while it renders, and requests wait for that.
            while len(batch) < BATCH_LINES and not self._queue.empty():
                batch.append(self._queue.get())
            self._write_batch([each for each in batch if isinstance(each, dict)])
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()
            if None in batch:
                break
        for output in self.outputs:
            output.close()

    def _write_batch(self, events: list[dict[str, Any]]) -> None:
        lines = [self._render(event) for event in events]
        if self.dropped > self._n_reported and self._monotonic() >= self._next_report:
            lines.append(self._render(self._report()))
        if not lines:
            return
        for output in self.outputs:
            try:
                n_lost = output.write(lines)
            except Exception:
                # The thread that logs must not die of it: the other places say what happened.
                n_lost = len(lines)
                self._queue.put(self._own_event("error", "log output failed", exception=traceback.format_exc()))
            self._count_lost(output.place, n_lost)

    def _render(self, event: dict[str, Any]) -> bytes:
        at, level = event["time"], event["level"]
        event["time"] = rfc3339(at)
        try:
            line, shown = self._line_format.json_line(event)
        except Exception:
            failure = self._own_event("error", "log line failed", exception=traceback.format_exc())
            line, shown = self._line_format.json_line({**failure, "time": rfc3339(at)})
        if self._store is not None:
            self._store.add(line, at=at, level=level, service=shown["service"])
        return line

    def _report(self) -> dict[str, Any]:
        n_lines = self.dropped - self._n_reported
        self._n_reported += n_lines
        self._next_report = self._monotonic() + REPORT_DROPPED_S
        n_refused, self._n_refused_counted = self._n_refused - self._n_refused_counted, self._n_refused
        if self._store is not None and n_refused:
            self._store.count_dropped("queue", n_refused)
        return self._own_event("warning", "log lines dropped", n_lines=n_lines)

    def _count_lost(self, place: str, n_lines: int) -> None:
        if n_lines:
            self._n_lost += n_lines
            if self._store is not None:
                self._store.count_dropped(place, n_lines)

    def _own_event(self, level: str, event: str, **values: Any) -> dict[str, Any]:
        return {"time": self._now(), "level": level, "service": ROOT, "event": event, **values}
