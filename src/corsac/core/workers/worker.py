"""Supervised child processes for native code that can crash, hang or grow."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from corsac.core.exceptions import (
    CorsacError,
    DeadlineExceeded,
    TooLarge,
    Unavailable,
    WorkerCrashed,
    WorkerOutOfMemory,
)
from corsac.core.workers.crash_circuit import CrashCircuit
from corsac.core.workers.output_log import OutputLog
from corsac.core.workers.protocol import (
    Answer,
    MessageTooLarge,
    WorkerError,
    WorkerRejected,
    WorkerStartFailed,
    pack,
)
from corsac.core.workers.spawned import ChildDied, SpawnedChild

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger


class Worker:
    """Runs the methods of one object in a child process, one call at a time.

    The child is spawned at the first call, or by `start`, and again at the next call after it ended. A
    deadline, a cancelled call or too much memory kills it: native code cannot be interrupted otherwise. Three
    crashes within a minute open a circuit for 10 s, doubling to 120 s.

    Args:
        target: `package.module:ClassName`, importable where the server's own modules are.
        options: Keyword arguments for the class; JSON.
        name: For messages and the log.
        memory_limit_bytes: Resident memory above which it is killed. Looked at every 50 ms of a call, so a
            fast grower gets some 100 MB further.
        start_timeout_s: Seconds that the import and the class's `__init__` may take.
        idle_stop_s: Seconds without a call after which the child is ended to free its memory; None: never.
        threads: Threads for OpenMP and the BLAS libraries in the child.
        environment: The child's environment; None: the server's.
        monotonic: Seconds on a clock that never goes back.
        logger: Gets starts, deaths and what the child prints.

    Attributes:
        last_success_at: Time of the last result on the clock `monotonic`; None before the first.
    """

    def __init__(
        self,
        target: str,
        options: Mapping[str, Any],
        *,
        name: str,
        memory_limit_bytes: int = 1 << 30,
        start_timeout_s: float = 30.0,
        idle_stop_s: float | None = None,
        threads: int = 2,
        environment: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        logger: Logger | None = None,
    ) -> None:
        self.name = name
        self.last_success_at: float | None = None
        self._setup: dict[str, Any] = {"target": target, "options": dict(options), "threads": threads}
        self._memory_limit_bytes = memory_limit_bytes
        self._start_timeout_s = start_timeout_s
        self._idle_stop_s = idle_stop_s
        self._environment = environment
        self._monotonic = monotonic
        self._logger = logger
        self._circuit = CrashCircuit(name, monotonic)
        self._lock = asyncio.Lock()
        self._child: SpawnedChild | None = None
        self._starting: asyncio.Task[SpawnedChild] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._n_starts = 0
        self._n_stops = 0

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none runs."""
        return self._child.pid if self._child and not self._child.is_gone else None

    @property
    def rss_bytes(self) -> int:
        """Resident memory as last measured, during a call or start; 0 when no child runs."""
        return self._child.rss_bytes if self._child and not self._child.is_gone else 0

    @property
    def restarts(self) -> int:
        """How often a child was started after the first."""
        return max(0, self._n_starts - 1)

    @property
    def is_busy(self) -> bool:
        """Whether a call or a start is going on."""
        return self._lock.locked() or self._starting is not None

    @property
    def circuit_open_s(self) -> float:
        """Seconds until calls are taken again after many crashes; 0 when they are taken."""
        return self._circuit.open_s

    async def start(self) -> None:
        """Have the child running, its object made. The first call does the same.

        Raises:
            WorkerStartFailed: The class could not be imported or made.
            WorkerCrashed, WorkerOutOfMemory, CircuitOpen, Unavailable: As `call`.
        """
        n_stops = self._n_stops
        async with self._lock:
            await self._running(n_stops)
        self._rest()

    async def call(
        self, method: str, arguments: Mapping[str, Any], payload: bytes = b"", *, timeout_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Run `instance.method(payload=payload, **arguments)` in the child.

        Args:
            method: Name of a method that returns (dict, bytes-like).
            arguments: Its keyword arguments; JSON of at most 16 MiB.
            payload: Raw bytes; with the arguments at most 256 MiB.
            timeout_s: Seconds until the work is stopped, the wait for earlier calls included.

        Returns:
            What the method returned.

        Raises:
            DeadlineExceeded: `timeout_s` passed. A start goes on for the next call.
            WorkerCrashed: The child died.
            WorkerOutOfMemory: It grew over its limit, or the machine had no memory left.
            CircuitOpen: It crashed too often.
            TooLarge: The request or the result is over the bounds.
            WorkerRejected: The method raised `Rejected`.
            WorkerError: The method raised something else. Its text is not for clients.
            WorkerStartFailed: The class could not be imported or made.
            Unavailable: `stop` was called meanwhile.
        """
        try:
            head = pack({"method": method, "arguments": dict(arguments)}, len(payload))
        except MessageTooLarge as error:
            raise TooLarge("A request to a worker takes 16 MiB of fields and 256 MiB in all.") from error
        n_stops = self._n_stops
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                child = await self._running(n_stops)
                answer, output = await self._ask(child, head, payload)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._rest()
        return self._result(answer), output

    async def stop(self) -> None:
        """End the child; calls that run or wait fail with Unavailable. A later call starts it afresh."""
        self._n_stops += 1
        if self._idle_timer:
            self._idle_timer.cancel()
        child = self._child
        if child:
            child.kill("stop")
            await child.ended()
        if self._starting:
            await asyncio.wait({self._starting})

    async def _running(self, n_stops: int) -> SpawnedChild:
        """The child, started if need be.

        The start is a task of its own: were it killed with its caller, calls with a deadline shorter than the
        start would never succeed.
        """
        if n_stops != self._n_stops:
            raise self._stopped()
        if self._child and not self._starting:
            if not self._child.is_gone:
                return self._child
            await self._death(self._child)
        if not self._starting:
            self._circuit.check()
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._started)
        return await asyncio.shield(self._starting)

    async def _start(self) -> SpawnedChild:
        n_stops = self._n_stops
        output_log = OutputLog(self._logger, self.name, self._monotonic)
        self._child = child = await SpawnedChild.spawn(self._environment, output_log)
        self._n_starts += 1
        if n_stops != self._n_stops:
            child.kill("stop")
            await child.ended()
            raise self._stopped()
        setup = pack({**self._setup, "parent": os.getpid(), "path": sys.path})
        try:
            async with asyncio.timeout(self._start_timeout_s):
                answer, _ = await self._ask(child, setup, b"")
        except TimeoutError:
            self._circuit.crashed()
            raise WorkerStartFailed("TimeoutError", f"Not up after {self._start_timeout_s:g} s.") from None
        if answer.outcome != "ready":
            child.kill("caller")
            raise WorkerStartFailed(answer.code, answer.detail)
        return child

    def _started(self, task: asyncio.Task[SpawnedChild]) -> None:
        self._starting = None
        error = None if task.cancelled() else task.exception()
        if self._logger and error:
            self._logger.warning("worker did not start", worker=self.name, error=str(error))
        elif self._logger:
            self._logger.info("worker started", worker=self.name, pid=self.pid)

    async def _ask(self, child: SpawnedChild, head: bytes, payload: bytes) -> tuple[Answer, bytes]:
        try:
            return await child.ask(head, payload, self._memory_limit_bytes)
        except ChildDied:
            raise await self._death(child) from None

    async def _death(self, child: SpawnedChild) -> CorsacError:
        """See a dead or speechless child off and count it; returns the error that says what it died of."""
        await child.ended()
        self._child = None
        if child.ended_by == "memory":
            limit_mib = self._memory_limit_bytes >> 20
            error: CorsacError = WorkerOutOfMemory(f"The work needed more than the {limit_mib} MiB it may use.")
        elif child.ended_by:
            return self._stopped()
        else:
            self._circuit.crashed()
            if child.ran_out_of_memory:
                error = WorkerOutOfMemory("The machine had no memory left for the work.")
            else:
                error = WorkerCrashed(
                    f"The worker '{self.name}' {child.cause_of_death}; the next request starts it again."
                )
        if self._logger:
            self._logger.error("worker died", worker=self.name, pid=child.pid, cause=error.detail)
        return error

    def _result(self, answer: Answer) -> dict[str, Any]:
        self._circuit.succeeded()
        if answer.outcome == "rejected":
            raise WorkerRejected(answer.code, answer.detail)
        if answer.outcome == "failed":
            if answer.code == "MemoryError":
                raise WorkerOutOfMemory
            if answer.code == "MessageTooLarge":
                raise TooLarge("The result is over the 256 MiB that can be handed over; ask for less at once.")
            raise WorkerError(answer.code, answer.detail)
        self.last_success_at = self._monotonic()
        return answer.result

    def _stopped(self) -> Unavailable:
        return Unavailable(f"The worker '{self.name}' was stopped.")

    def _rest(self) -> None:
        if self._idle_stop_s is not None:
            if self._idle_timer:
                self._idle_timer.cancel()
            self._idle_timer = asyncio.get_running_loop().call_later(self._idle_stop_s, self._stop_idle)

    def _stop_idle(self) -> None:
        if self._child and not self.is_busy:
            self._child.kill("stop")
