"""The half of an engine that lives in a worker process, as its other half in the server sees it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from corsac.core.exceptions import CorsacError, EngineUnavailable
from corsac.core.service import Broken, EngineContext, NotReady, Refused, StartFailure
from corsac.core.workers.protocol import WorkerError, WorkerStartFailed
from corsac.core.workers.worker import Worker

if TYPE_CHECKING:
    from corsac.core.health_checks import Check

FRESH_S = 60.0
PROBE_TIMEOUT_S = 1.5  # a check has 2 s


class NativeHalf:
    """Starts the worker, asks it, and tells how it is.

    Args:
        context: The engine's.
        target: The class in the worker as `package.module:ClassName`.
        kind: The engine's kind, for messages.
        does: What a success is, for the check's name: `synthesis`.
        extra: The extra of corsac that installs what the class imports.
        idle_stop_s: Seconds without work after which the worker is ended to free its memory; None: never.
        monotonic: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        context: EngineContext,
        *,
        target: str,
        kind: str,
        does: str,
        extra: str,
        idle_stop_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._target = target
        self._kind = kind
        self._does = does
        self._extra = extra
        self._idle_stop_s = idle_stop_s
        self._monotonic = monotonic
        self._worker: Worker | None = None
        self._is_up = False

    async def start(self, options: Mapping[str, Any], first: str) -> dict[str, Any]:
        """Start the worker and ask it the first question.

        Args:
            options: Keyword arguments of its class; JSON.
            first: A method without arguments that tells what it can do.

        Returns:
            The answer to that.

        Raises:
            NotReady, Refused, Broken: As they say.
        """
        worker = self._worker = Worker(
            self._target,
            options,
            name=self._context.name,
            idle_stop_s=self._idle_stop_s,
            monotonic=self._monotonic,
            logger=self._context.logger,
        )
        try:
            await worker.start()
            answer, _ = await worker.call(first, {}, timeout_s=10)
        except WorkerError as error:
            raise self._start_failure(error) from error
        except CorsacError as error:
            raise NotReady(error.detail) from error
        self._is_up = True
        return answer

    async def stop(self) -> None:
        """End the worker; nothing happens where there is none."""
        self._is_up = False
        if self._worker:
            await self._worker.stop()

    def require_up(self) -> Worker:
        """The worker.

        Raises:
            EngineUnavailable: It is not started.
        """
        if self._worker is None or not self._is_up:
            raise EngineUnavailable(f"The {self._kind} engine '{self._context.name}' is not started.")
        return self._worker

    async def ask(
        self, method: str, arguments: Mapping[str, Any], payload: bytes = b"", *, timeout_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Run a method of the worker's object; see `Worker.call`.

        Raises:
            EngineUnavailable: It is not started, or what it needs has been removed since.
            WorkerCrashed, WorkerOutOfMemory, CircuitOpen, DeadlineExceeded, TooLarge: See `Worker.call`.
        """
        worker = self.require_up()
        try:
            return await worker.call(method, arguments, payload, timeout_s=timeout_s)
        except WorkerStartFailed as error:
            failure = self._start_failure(error)
            raise EngineUnavailable(failure.detail, hint=failure.hint) from error

    async def check(self, probe: Callable[[float], Awaitable[str | None]]) -> Sequence[Check]:
        """A success within a minute counts; else an idle worker is probed. Never starts one to find out.

        Args:
            probe: Does the smallest piece of work within so many seconds; returns what was wrong with it, or None.
        """
        worker = self._worker
        if worker is None or not self._is_up:
            return [self._check("pass", output="Unloaded.")]
        last = worker.last_success_at
        if last is not None and (age_s := self._monotonic() - last) <= FRESH_S:
            return [self._check("pass", age_s, "s")]
        if worker.circuit_open_s > 0:
            return [self._check("fail", output="It crashed again and again and is left alone for a while.")]
        if worker.is_busy:
            return [self._check("warn", output="It is at work, and nothing was finished in the last minute.")]
        if worker.pid is None:
            return [self._check("pass", output="Unloaded; the next request loads it.")]
        return [await self._probed(probe)]

    async def _probed(self, probe: Callable[[float], Awaitable[str | None]]) -> Check:
        began = self._monotonic()
        try:
            wrong = await probe(PROBE_TIMEOUT_S)
        except CorsacError as error:
            wrong = error.detail
        except WorkerError:
            self._context.logger.exception("check failed")
            wrong = f"The smallest {self._does} failed; the log says why."
        if wrong:
            return self._check("fail", output=wrong)
        return self._check("pass", self._monotonic() - began, "s")

    def _check(
        self,
        status: Literal["pass", "warn", "fail"],
        value: float | None = None,
        unit: str | None = None,
        output: str | None = None,
    ) -> Check:
        from corsac.core.health_checks import Check

        return Check(f"{self._context.name}:{self._does}", status, value, unit, output)

    def _start_failure(self, error: WorkerError) -> StartFailure:
        name = f"The {self._kind} engine '{self._context.name}'"
        if error.kind == "ImportError":
            hint = f"pip install 'corsac[{self._extra}]'"
            return Refused(f"What the {self._kind} engine '{self._context.name}' needs is not installed.", hint)
        if error.kind == "TimeoutError":
            return NotReady(f"{name} did not start in time.")
        return Broken(f"{name} could not start ({error.kind}); the log says why.")
