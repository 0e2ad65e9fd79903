"""Work that goes on beside the requests, for as long as the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger


@dataclass(slots=True)
class Background:
    """Tasks with names. One that crashes is logged and ends alone.

    Args:
        logger: Gets a line with the traceback for every crash.
    """

    logger: Logger
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Let `work` run beside everything else."""
        task = asyncio.create_task(self._guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def every(self, pause_s: float, work: Callable[[], Awaitable[object]], name: str) -> None:
        """Call `work` again and again, with `pause_s` before each; a round that crashes does not end the rounds."""

        async def rounds() -> None:
            while True:
                await asyncio.sleep(pause_s)
                await self._guarded(work(), name)

        self.start(rounds(), name)

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Awaitable[object], name: str) -> None:
        try:
            await work
        except Exception as error:
            self.logger.error("background work crashed", work=name, exc_info=error)
