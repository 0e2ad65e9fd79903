"""The application's start and stop, as ASGI's lifespan protocol has them."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message


class Lifespan:
    """Starts and stops one application.

    uvicorn's own logs an exception of the start and ends with a bare exit code. This one raises it, so a refusal
    to start reaches the terminal as what it is.

    Args:
        app: Takes the scope `lifespan`.
    """

    should_exit = False  # asked by uvicorn; here failures are raised

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._requests: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the application. Cancelled, it cancels the start and waits for its clean-up.

        Raises:
            Exception: Whatever the application raised.
        """
        self._task = asyncio.create_task(self._run())
        try:
            await self._ask(self._task, "startup")
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise

    async def shutdown(self) -> None:
        """Stop the application.

        Raises:
            Exception: Whatever the application raised.
        """
        if self._task is not None:
            await self._ask(self._task, "shutdown")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._requests.get, self._answers.put)

    async def _ask(self, task: asyncio.Task[None], step: str) -> None:
        self._requests.put_nowait({"type": f"lifespan.{step}"})
        answer = asyncio.create_task(self._answers.get())
        try:
            await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and answer.result()["type"] == f"lifespan.{step}.complete":
                return
        finally:
            answer.cancel()
        await task
        raise RuntimeError(f"The application ended without completing its {step}.")
