"""Starts parts in order, tries the not-ready again, and restarts what falls ill."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from corsac.core.service import Broken, NotReady, Refused
from corsac.core.service_registry import SERVICE, WORKING, Entry, FailureKind, ServiceRegistry, State
from corsac.core.service_shutdown import EACH_S, stop_part

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MAX_RESTARTS = 5  # in a row, without STEADY_S between two of them
FIRST_RESTART_PAUSE_S = 15.0
STEADY_S = 600.0


class ServiceInitializer:
    """Brings parts to life.

    Args:
        registry: The parts.
        logger: Gets one line for each start and failure.
        start_timeout_s: Seconds that one start may take.
        sleep: Waits; replaced in tests.
        jitter: A number in [0, 1).
        monotonic: Seconds.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        logger: Logger,
        *,
        start_timeout_s: float = 60.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.logger = logger
        self.start_timeout_s = start_timeout_s
        self.sleep = sleep
        self.jitter = jitter
        self.monotonic = monotonic
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._revivals: dict[str, tuple[int, float]] = {}  # how many in a row, and when the last one was

    async def start_all(self) -> None:
        """Start every part, independent ones side by side; returns when each service has been tried once.

        Engines go on starting in the background: a service works without them as far as it can.

        Raises:
            DependencyCycle: The parts need each other in a circle.
        """
        for entry in self.registry.start_order():
            self.begin(entry.name)
        services = [self._starts[each.name] for each in self.registry if each.kind == SERVICE]
        await asyncio.gather(*services, return_exceptions=True)  # one that is cancelled holds nobody up

    def begin(self, name: str) -> asyncio.Task[None]:
        """Start one part in the background; what works or is being started is not started again.

        Raises:
            ServiceNotFound: No such part.
        """
        entry = self.registry.get(name)
        running = self._starts.get(name)
        if running is not None and (not running.done() or entry.state in WORKING):
            return running
        self.registry.move(entry, State.STARTING)
        task = self._starts[name] = asyncio.create_task(self._first_start(entry), name=f"start {name}")
        return task

    async def start(self, name: str) -> None:
        """Start one part; returns after the first try. A caller that is cancelled does not end the start.

        Raises:
            ServiceNotFound: No such part.
        """
        if self.registry.get(name).state is State.FAILED:
            await self.cancel(name)  # rather now than after the pause before the next try
        await asyncio.wait({self.begin(name)})

    async def restart(self, name: str) -> None:
        """Stop one part and start it again."""
        entry = self.registry.get(name)
        await self.cancel(name)
        if entry.state in WORKING:
            await self.stop(name)
        await self.start(name)

    async def stop(self, name: str) -> None:
        """Stop one part. Others that need it are not asked; see `ServiceRegistry.check_stoppable`."""
        entry = self.registry.get(name)
        await self.cancel(name)
        self.registry.move(entry, State.DRAINING)
        await stop_part(entry, self.logger)
        self.registry.move(entry, State.STOPPED)

    async def cancel(self, name: str) -> None:
        """End a start, or the wait for the next try."""
        task = self._starts.pop(name, None)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=EACH_S)

    async def close(self) -> None:
        """End all starts under way."""
        for name in list(self._starts):
            await self.cancel(name)

    async def revive(self, name: str) -> None:
        """Restart a part whose check failed: after pauses that double, and not more than five times in a row."""
        n_revivals, last_at = self._revivals.get(name, (0, float("-inf")))
        passed_s = self.monotonic() - last_at
        if passed_s >= STEADY_S:
            n_revivals = 0
        too_soon = n_revivals > 0 and passed_s < FIRST_RESTART_PAUSE_S * 2 ** (n_revivals - 1)
        if self.registry.get(name).state not in WORKING or n_revivals >= MAX_RESTARTS or too_soon:
            return
        self._revivals[name] = n_revivals + 1, self.monotonic()
        self.logger.warning("restarting an ill part", part=name, attempt=n_revivals + 1)
        await self.restart(name)

    async def _first_start(self, entry: Entry) -> None:
        """Try once; what is not ready is tried again by a task of its own."""
        starting = [each.name for each in self.registry.needed_by(entry) if each.state is State.STARTING]
        if required := [self._starts[name] for name in starting if name in entry.requires and name in self._starts]:
            await asyncio.wait(required)  # a gather would be cancelled with one of them, and they with it
        if not await self._try(entry):
            self._starts[entry.name] = asyncio.create_task(self._try_again(entry), name=f"retry {entry.name}")

    async def _try_again(self, entry: Entry) -> None:
        pause = FIRST_PAUSE_S
        while True:
            await self.sleep(pause * (0.5 + self.jitter() / 2))
            pause = min(pause * 2, LONGEST_PAUSE_S)
            if await self._try(entry):
                return

    async def _try(self, entry: Entry) -> bool:
        """One start. False: try again later."""
        entry.attempts += 1
        try:
            async with asyncio.timeout(self.start_timeout_s):
                await entry.part.start()
        except NotReady as failure:
            self._failed(entry, failure, "not_ready")
            return False
        except TimeoutError:
            self._failed(entry, NotReady(f"It did not start within {self.start_timeout_s:.0f} s."), "not_ready")
            return False
        except Refused as failure:
            self._failed(entry, failure, "refused")
        except Broken as failure:
            self._failed(entry, failure, "broken")
        except Exception as error:
            self.logger.error("start crashed", part=entry.name, exc_info=error)
            self._failed(
                entry,
                Broken(f"It crashed while starting ({type(error).__name__}); the log has more."),
                "broken",
            )
        else:
            self.registry.move(entry, State.READY)
            self.logger.info("started", part=entry.name)
        return True

    def _failed(self, entry: Entry, failure: NotReady | Refused | Broken, kind: FailureKind) -> None:
        self.registry.move(entry, State.FAILED, failure, kind)
        log = self.logger.info if kind == "refused" else self.logger.warning
        log("did not start", part=entry.name, failure=kind, detail=failure.detail, hint=failure.hint)
