"""A hub, and a call to open streams with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from corsac.core.call import Call
from corsac.core.identity import Principal
from corsac.core.logging_config import Logger
from corsac.core.metrics import Metrics
from corsac.core.streams.event import Event
from corsac.core.streams.hub import StreamHub


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def hub(logger: Logger, metrics: Metrics) -> AsyncIterator[StreamHub]:
    hub = StreamHub(logger, metrics, boot="0123abcd")
    yield hub
    await hub.close()


@pytest.fixture
def call() -> Call:
    return call_of("alice")


def call_of(principal: str) -> Call:
    """A call of the service `echo` by somebody."""
    caller = Principal(principal, f"key-{principal}", frozenset({"echo"}))
    return Call("4b0c5f3c", caller, service="echo", operation="count", media_type="text/event-stream")


class Producer:
    """Counts up to `n`, and remembers what became of it.

    Args:
        n: How many events.
        pause_s: Pause before each, in seconds; None: it never awaits.
        error: What it raises at the end.
    """

    def __init__(self, n: int = 3, pause_s: float | None = None, error: Exception | None = None) -> None:
        self.n, self.pause_s, self.error = n, pause_s, error
        self.n_made = 0
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while self.n_made < self.n:
                if self.pause_s is not None:
                    await asyncio.sleep(self.pause_s)
                self.n_made += 1
                yield Event("number", {"n": self.n_made})
            if self.error:
                raise self.error
        finally:
            self.closed.set()


def metric(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of one sample; 0 where there is none."""
    return metrics.registry.get_sample_value(name, labels) or 0.0
