"""Structured logging: what every part logs with, and how it is set up."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from corsac.core.logs.file import LogFile
from corsac.core.logs.levels import ROOT, ServiceLevels, level_name
from corsac.core.logs.line import LineFormat, pretty_line
from corsac.core.logs.redaction import SecretRedactor
from corsac.core.logs.sink import QUEUE_LINES, LogOutput, LogSink
from corsac.core.logs.store import LogStore
from corsac.core.logs.stream import LogStream

__all__ = ["LogSink", "Logger", "configure_logging", "get_api_logger", "get_service_logger"]

Logger = FilteringBoundLogger
"""What every part logs with: `logger.info("model loaded", model=name, seconds=1.5)`. Words first, values by name."""

QUIET_LIBRARIES = ("httpx",)
"""They log every request at info, and so do we."""


def get_service_logger(service_name: str) -> Logger:
    """A logger whose lines carry `service`.

    It follows the configuration of the moment in which it logs, so it may be made at any time; before
    `configure_logging` it prints to stdout. What its `bind` returns keeps the configuration of that moment.

    Args:
        service_name: The service's name; its level is `LogSink.set_level(service_name, …)`.
    """
    logger: Logger = structlog.get_logger(service=service_name)
    return logger


def get_api_logger(api_name: str) -> Logger:
    """A logger whose lines carry `api`; where a line names no service, `api_name` counts as the service.

    Args:
        api_name: The API's name, for example `http` or `openai`.
    """
    logger: Logger = structlog.get_logger(api=api_name)
    return logger


def configure_logging(
    *,
    json: bool,
    directory: Path | None,
    store: LogStore | None,
    secrets: SecretRedactor,
    level: str = "info",
    max_file_bytes: int = 16 << 20,
    max_total_bytes: int = 256 << 20,
    rotate_after_s: float = 86_400.0,
    max_age_s: float = 30 * 86_400.0,
    capacity: int = QUEUE_LINES,
    stream: TextIO | None = None,
    now: Callable[[], float] = time.time,
) -> LogSink:
    """Send what structlog, the standard library's loggers and warnings say to one sink.

    Args:
        json: JSON lines on the stream; else lines for people. The file is always JSON.
        directory: Where `corsac.log` and its rotated files are kept; None: no file.
        store: Keeps the recent lines for queries.
        secrets: What no line shows.
        level: Least level of services without one of their own.
        max_file_bytes: Size at which the file is rotated.
        max_total_bytes: Most bytes of all log files; the oldest are deleted.
        rotate_after_s: Age at which the file is rotated, seconds.
        max_age_s: Age at which a rotated file is deleted, seconds.
        capacity: Lines that may wait for the writer; further ones are dropped and counted.
        stream: Where lines are shown; None: stderr.
        now: Seconds since the epoch.

    Returns:
        The sink. Its `close` writes what waits and gives the standard library's loggers back.

    Raises:
        InvalidChoice: There is no such level.
        ValueError: `max_total_bytes` has no room for two files.
    """
    outputs: list[LogOutput] = []
    if directory is not None:
        file = LogFile(
            directory,
            max_file_bytes=max_file_bytes,
            max_total_bytes=max_total_bytes,
            rotate_after_s=rotate_after_s,
            max_age_s=max_age_s,
            now=now,
        )
        outputs.append(file)
    if shown_on := stream or sys.stderr:  # A process without a terminal may have no stderr.
        render = bytes if json else partial(pretty_line, color=shown_on.isatty())
        outputs.append(LogStream(shown_on, render))
    levels, line_format = ServiceLevels(level), LineFormat(secrets)
    sink = LogSink(outputs, line_format=line_format, levels=levels, store=store, capacity=capacity, now=now)
    structlog.configure(
        processors=[sink.take],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        context_class=dict,
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _route_libraries(sink, level)
    atexit.register(sink.close)
    sink.on_close.callback(atexit.unregister, sink.close)
    return sink


class LibraryHandler(logging.Handler):
    """Hands the standard library's log records to a sink; the first part of a logger's name is the service."""

    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record."""
        service = record.name.partition(".")[0]
        event: dict[str, Any] = {"service": service, "logger": record.name, "exc_info": record.exc_info}
        try:
            event["event"] = record.getMessage()
        except Exception as error:  # noqa: BLE001 - anybody's arguments; the line carries the traceback instead
            event |= {"event": record.msg, "exc_info": error}
        self._sink.submit(level_name(record.levelno), event, record.created)


def _route_libraries(sink: LogSink, level: str) -> None:
    handler = LibraryHandler(sink)
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    sink.on_close.callback(root.removeHandler, handler)
    sink.on_close.callback(logging.captureWarnings, False)
    sink.set_level(ROOT, level)
    for library in QUIET_LIBRARIES:
        sink.set_level(library, "warning")
