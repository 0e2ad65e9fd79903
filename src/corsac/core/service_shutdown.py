"""Stops parts in reverse order, with a time limit for each and for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from corsac.core.service_registry import Entry, ServiceRegistry, State

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

EACH_S = 5.0
TOTAL_S = 20.0


async def stop_part(entry: Entry, logger: Logger, timeout_s: float = EACH_S) -> bool:
    """Stop one part.

    Returns:
        Whether it stopped by itself in time; a failure is logged and does not hold up the others.
    """
    stopping = asyncio.ensure_future(entry.part.stop())
    await asyncio.wait({stopping}, timeout=timeout_s)
    if not stopping.done():
        stopping.cancel()  # and left alone: what hangs may ignore this too
        logger.warning("did not stop in time", part=entry.name, timeout_s=timeout_s)
        return False
    # A stop that awaits the task it cancelled ends as if it were cancelled itself, and has stopped.
    error = None if stopping.cancelled() else stopping.exception()
    if error is not None:
        logger.error("stop crashed", part=entry.name, exc_info=error)
        return False
    return True


async def stop_all(
    registry: ServiceRegistry,
    logger: Logger,
    *,
    total_s: float = TOTAL_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Stop every part, dependents first, one after the other; a part that hangs gets at most 5 seconds.

    Args:
        registry: The parts.
        logger: Gets a line for each part that hangs or crashes.
        total_s: Seconds for all together.
        monotonic: Seconds.
    """
    deadline = monotonic() + total_s
    for entry in reversed(registry.start_order()):
        if entry.state in (State.REGISTERED, State.STOPPED):
            continue
        registry.move(entry, State.DRAINING)
        await stop_part(entry, logger, max(0.0, min(EACH_S, deadline - monotonic())))
        registry.move(entry, State.STOPPED)
