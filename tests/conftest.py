"""Fixtures of many tests: a clock to turn by hand, a logger that remembers, and a client behind the crash guard."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import structlog
from hypothesis import settings
from starlette.types import ASGIApp
from structlog.testing import LogCapture

from corsac.core.http.crash_guard import CrashGuard, OpenStreams
from corsac.core.http.proxies import TrustedProxies
from corsac.core.logging_config import Logger

# An example's time says more about the machine than about the code.
settings.register_profile("corsac", deadline=None)
settings.load_profile("corsac")

ClientOf = Callable[[ASGIApp], httpx.AsyncClient]


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> LogCapture:
    """Its `entries` are what was logged: dicts with `event`, `log_level` and the values by name."""
    return LogCapture()


@pytest.fixture
def logger(log: LogCapture) -> Logger:
    return logger_into(log)


def logger_into(log: LogCapture) -> Logger:
    """A logger whose lines of every level `log` gets."""
    wrapper = structlog.make_filtering_bound_logger(0)
    return structlog.wrap_logger(None, processors=[log], wrapper_class=wrapper)  # type: ignore[no-any-return]


@pytest.fixture
def streams() -> OpenStreams:
    return OpenStreams()


@pytest.fixture
def client_of(logger: Logger, streams: OpenStreams) -> ClientOf:
    """Makes a client, in this process, of an app behind the crash guard."""
    return lambda app: client_behind_guard(app, logger, streams)


def guarded(app: ASGIApp, logger: Logger, streams: OpenStreams, *, draining: bool = False) -> CrashGuard:
    """`app` behind the crash guard, which adds the header `x-all` to every answer."""
    return CrashGuard(
        app,
        logger=logger,
        streams=streams,
        draining=lambda: draining,
        headers=[(b"x-all", b"1")],
        page_headers=[(b"x-page", b"1")],
        proxies=TrustedProxies(),
    )


def client_behind_guard(app: ASGIApp, logger: Logger, streams: OpenStreams) -> httpx.AsyncClient:
    """A client of `app`; an exception that the crash guard lets out fails the test."""
    transport = httpx.ASGITransport(guarded(app, logger, streams))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")
