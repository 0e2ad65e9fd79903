"""What a child prints, native code included, becomes lines of the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

MAX_LINE_BYTES = 1000
LINES_PER_MINUTE = 200


class OutputLog:
    """Logs a child's output line by line; a flood of it is counted instead.

    Args:
        logger: Gets the lines; None: they are dropped, but read, lest the child block on a full pipe.
        worker: The worker's name.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(self, logger: Logger | None, worker: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._worker = worker
        self._monotonic = monotonic
        self._minute_began = monotonic()
        self._n_lines = 0

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read until the child has closed its output."""
        rest = b""
        while chunk := await stream.read(1 << 14):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._line(line)
            if len(rest) > MAX_LINE_BYTES:
                self._line(rest)
                rest = b""
        self._line(rest)
        self._report_dropped()

    def _line(self, line: bytes) -> None:
        if self._logger is None or not line.strip():
            return
        if self._monotonic() - self._minute_began >= 60:
            self._report_dropped()
            self._minute_began, self._n_lines = self._monotonic(), 0
        self._n_lines += 1
        if self._n_lines <= LINES_PER_MINUTE:
            text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
            self._logger.info("worker output", worker=self._worker, line=text)

    def _report_dropped(self) -> None:
        if self._logger is not None and self._n_lines > LINES_PER_MINUTE:
            dropped = self._n_lines - LINES_PER_MINUTE
            self._logger.warning("worker output dropped", worker=self._worker, n_lines=dropped)
