"""The most recent log lines, to be asked for, and how many there were."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter

from corsac.core.logs.levels import LEVELS, level_number


@dataclass(frozen=True, slots=True)
class _Stored:
    at: float
    level: int
    service: str
    line: bytes


class LogStore:
    """Keeps the newest lines in memory; may be used from several threads.

    Args:
        capacity: Lines that are kept.
        max_bytes: Bytes of lines that are kept.
        registry: Gets `corsac_log_events` by level and service and `corsac_log_dropped` by place.
    """

    def __init__(
        self, capacity: int = 10_000, *, max_bytes: int = 16 << 20, registry: CollectorRegistry | None = None
    ) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._lines: deque[_Stored] = deque()
        self._n_bytes = 0
        self.n_added = 0
        """Lines since the start, those that are gone included."""
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], Counter] = {}
        registry = registry or CollectorRegistry()
        self._events = Counter("corsac_log_events", "Log lines.", ("level", "service"), registry=registry)
        self._dropped = Counter(
            "corsac_log_dropped",
            "Log lines lost, by place: the queue was full, or the file or the stream did not take them.",
            ("place",),
            registry=registry,
        )

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: bytes, *, at: float, level: str, service: str) -> None:
        """Keep a line and count it.

        Args:
            line: JSON.
            at: Seconds since the epoch.
            level: One of the standard levels.
            service: Whose line it is.
        """
        stored = _Stored(at, LEVELS[level], service, line)
        with self._lock:
            self._lines.append(stored)
            self.n_added += 1
            self._n_bytes += len(line)
            while len(self._lines) > self.capacity or self._n_bytes > self.max_bytes:
                self._n_bytes -= len(self._lines.popleft().line)
        counted = self._counted.get((level, service))
        if counted is None:  # finding a counter by its labels costs more than counting
            counted = self._counted[level, service] = self._events.labels(level, service)
        counted.inc()

    def count_dropped(self, place: str, n_lines: int) -> None:
        """Count lines that `place` has lost."""
        self._dropped.labels(place).inc(n_lines)

    def query(
        self,
        service: str | None = None,
        level: str | None = None,
        since: datetime | None = None,
        q: str | None = None,
        limit: int = 200,
        newest: int | None = None,
    ) -> list[dict[str, Any]]:
        """The newest lines that fit all conditions, newest last.

        Args:
            service: The service's name.
            level: Least level.
            since: Lines of this moment or later; without a time zone it is UTC.
            q: Text that the line contains; A to Z match a to z.
            limit: Most lines.
            newest: Look at so many of the newest lines only; None: at all.

        Raises:
            InvalidChoice: There is no such level; the error lists them.
        """
        least = level_number(level, "query/level") if level else 0
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        earliest = since.timestamp() if since else float("-inf")
        # As it stands in a JSON line.
        text = orjson.dumps((q or "").encode(errors="replace").decode())[1:-1].lower()
        with self._lock:
            lines = list(self._lines)[-newest if newest else None :]
        found: list[dict[str, Any]] = []
        for stored in reversed(lines):
            if len(found) >= limit:
                break
            if stored.level < least or stored.at < earliest or (service and stored.service != service):
                continue
            if text in stored.line.lower():
                found.append(orjson.loads(stored.line))
        return found[::-1]
