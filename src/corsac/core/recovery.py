"""Recovery that recovers: the strategies hold the function, so they can call it again.

They compose: `await retry(lambda: breaker.call(ask), policy=RetryPolicy(), budget=budget, deadline_s=30, …)`.

A strategy ends where its function returns. For a stream, let the function return once the first event is
there: from then on nothing is called again, and no client sees the beginning twice.

Strategies tell an observer what they did: `retry` says retried, recovered, exhausted, deadline or budget;
`breaker` says opened, closed or refused; `fallback` says recovered or exhausted.

Source: M. Brooker, "Exponential Backoff and Jitter", 2015; Finagle's RetryBudget; M. Nygard, "Release It!".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, Literal, TypeVar

from corsac.core.exceptions import (
    CircuitOpen,
    CorsacError,
    DeadlineExceeded,
    ShuttingDown,
    StorageFailed,
    Unavailable,
)

T = TypeVar("T")
Observer = Callable[[str, str], None]  # is called with the strategy and the outcome
BreakerState = Literal["closed", "open", "half_open"]

# A lone call may be repeated twice; time alone saves up no more than that.
SAVED_BY_TIME = 2.0
SAVED_BY_CALLS = 10.0


def unobserved(strategy: str, outcome: str) -> None:
    """The observer that ignores what it is told."""


def is_worth_repeating(error: Exception) -> bool:
    """Whether the same call may succeed soon: lost connections, timeouts, our own errors that say so.

    An open breaker and a server that shuts down say so to clients, who can wait; a call in progress cannot.
    """
    if isinstance(error, CorsacError):
        return error.retry == "retry" and not isinstance(error, CircuitOpen | ShuttingDown)
    return isinstance(error, ConnectionError | TimeoutError)


def is_curable_elsewhere(error: Exception) -> bool:
    """Whether another engine may succeed where this one failed. A caller's mistake stays one everywhere."""
    may_move = isinstance(error, Unavailable | DeadlineExceeded | ConnectionError | TimeoutError)
    return may_move and not isinstance(error, ShuttingDown | StorageFailed)


def is_upstream_failure(error: Exception) -> bool:
    """Whether an upstream is to blame: anything except our errors below 500, which are answers."""
    return not (isinstance(error, CorsacError) and error.status < 500)


async def _within(deadline_s: float | None, function: Callable[[], Awaitable[T]]) -> T:
    if deadline_s is not None and deadline_s <= 0:
        raise DeadlineExceeded
    try:
        async with asyncio.timeout(deadline_s) as timer:
            return await function()
    except TimeoutError as error:
        if timer.expired():
            raise DeadlineExceeded from error
        raise


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon.

    Args:
        attempts: Calls in all, at least 1.
        base_s: Upper bound of the first pause in seconds; doubles with each.
        cap_s: Upper bound of every pause in seconds.
    """

    attempts: int = 3
    base_s: float = 0.1
    cap_s: float = 5.0

    def pause_s(self, failed: int, random: Callable[[], float]) -> float:
        """Seconds to wait after `failed` failed calls: uniform from 0 to the bound ("full jitter")."""
        return random() * min(self.cap_s, self.base_s * 2.0 ** (failed - 1))


@dataclass(slots=True, eq=False)
class RetryBudget:
    """What all callers of one upstream may repeat together, so that repeating never multiplies its load.

    Args:
        ratio: Repetitions earned by each call.
        per_second: Repetitions earned by each second, for upstreams that are called rarely.
        monotonic: Seconds on a clock that never jumps.
    """

    ratio: float = 0.1
    per_second: float = 1.0
    monotonic: Callable[[], float] = time.monotonic
    _balance: float = field(default=0.0, init=False)
    _counted_until: float = field(init=False)

    def __post_init__(self) -> None:
        self._counted_until = self.monotonic()

    def deposit(self) -> None:
        """Count one call (not a repetition)."""
        self._balance = min(SAVED_BY_CALLS, self._balance + self.ratio)

    def withdraw(self) -> bool:
        """Pay for one repetition, if there is enough."""
        now = self.monotonic()
        earned = (now - self._counted_until) * self.per_second
        self._counted_until = now
        self._balance = max(self._balance, min(SAVED_BY_TIME, self._balance + earned))
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


async def retry(
    function: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    budget: RetryBudget,
    deadline_s: float,
    idempotent: bool,
    is_retryable: Callable[[Exception], bool] = is_worth_repeating,
    on_recovery: Observer = unobserved,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Callable[[], float] = random.random,
    monotonic: Callable[[], float] = time.monotonic,
) -> T:
    """Call `function`, and again if it fails in a way that may pass.

    Args:
        function: Must not have given anything to the client before it returns.
        policy: How often and how soon.
        budget: Shared by all callers of the upstream.
        deadline_s: Seconds for everything. An error whose `retry_after_s` lies beyond is raised at once.
        idempotent: Whether repeating does no harm, by nature or because the call carries a key. If not, the
            function is called once.
        is_retryable: Whether an error may pass.
        on_recovery: Told of each repetition and its end.
        sleep: Waits some seconds.
        random: Uniform in [0, 1).
        monotonic: Seconds on a clock that never jumps.

    Raises:
        DeadlineExceeded: The deadline passed during a call.
        Exception: The function's last error, unchanged.
    """
    ends_at = monotonic() + deadline_s
    budget.deposit()

    async def repeated() -> T:
        failed = 0
        while True:
            try:
                value = await function()
            except Exception as error:
                failed += 1
                if not idempotent or not is_retryable(error):
                    raise
                pause_s = policy.pause_s(failed, random) + (getattr(error, "retry_after_s", None) or 0.0)
                if failed >= policy.attempts:
                    outcome = "exhausted"
                elif monotonic() + pause_s >= ends_at:
                    outcome = "deadline"
                else:
                    outcome = "retried" if budget.withdraw() else "budget"
                on_recovery("retry", outcome)
                if outcome != "retried":
                    raise
            else:
                if failed:
                    on_recovery("retry", "recovered")
                return value
            await sleep(pause_s)

    return await _within(deadline_s, repeated)


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker at one moment, for health reports.

    Args:
        n_calls: Calls in the window, of which `n_failures` failed.
        retry_after_s: Seconds until the next call may pass; 0 unless open.
    """

    name: str
    state: BreakerState
    n_calls: int
    n_failures: int
    retry_after_s: float


@dataclass(slots=True, eq=False)
class CircuitBreaker:
    """Leaves an upstream alone that keeps failing, and lets one call at a time try whether it is back.

    A cancelled call counts neither way, so the function needs a time limit of its own: an upstream that hangs
    until the caller's deadline cancels it is never seen to fail.

    Args:
        name: What clients may read: an engine's or a service's name, never an address.
        window_calls: Calls that are looked at.
        window_s: Age in seconds at which a call is no longer looked at.
        min_calls: Calls below which nothing is concluded.
        failure_ratio: Share of failures that opens the breaker, above 0, at most 1.
        open_s: Seconds that it stays open at first; doubles with every trial that fails.
        max_open_s: Upper bound of that.
        is_failure: Whether an error is the upstream's fault; others count as success, because it answered.
        on_recovery: Told when the breaker opens, closes or refuses.
        monotonic: Seconds on a clock that never jumps.
    """

    name: str
    _: KW_ONLY
    window_calls: int = 20
    window_s: float = 30.0
    min_calls: int = 5
    failure_ratio: float = 0.5
    open_s: float = 10.0
    max_open_s: float = 120.0
    is_failure: Callable[[Exception], bool] = is_upstream_failure
    on_recovery: Observer = unobserved
    monotonic: Callable[[], float] = time.monotonic
    _calls: deque[tuple[float, bool]] = field(init=False)
    _open_until: float | None = field(default=None, init=False)
    _next_open_s: float = field(init=False)
    _probing: bool = field(default=False, init=False)
    _phase: int = field(default=0, init=False)  # a result counts only in the phase in which its call began

    def __post_init__(self) -> None:
        self._calls = deque(maxlen=self.window_calls)
        self._next_open_s = self.open_s

    @property
    def state(self) -> BreakerState:
        """closed (calls pass), open (none pass) or half_open (one passes, to try)."""
        if self._open_until is None:
            return "closed"
        return "open" if self.monotonic() < self._open_until else "half_open"

    def snapshot(self) -> BreakerSnapshot:
        """The breaker as it is now."""
        self._forget_old_calls()
        left_s = 0.0 if self._open_until is None else max(0.0, self._open_until - self.monotonic())
        return BreakerSnapshot(self.name, self.state, len(self._calls), self._n_failures(), left_s)

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call `function` unless the breaker is open.

        Raises:
            CircuitOpen: At once, without a call; `retry_after_s` says when one may pass.
            Exception: The function's own error.
        """
        phase = self._admit()
        try:
            value = await function()
        except Exception as error:
            self._settle(phase, failed=self.is_failure(error))
            raise
        except BaseException:
            if phase == self._phase:
                self._probing = False
            raise
        self._settle(phase, failed=False)
        return value

    def _admit(self) -> int:
        if self._open_until is not None:
            left_s = self._open_until - self.monotonic()
            if left_s > 0 or self._probing:
                self.on_recovery("breaker", "refused")
                detail = f"{self.name} has failed too often and is being left alone for a while."
                raise CircuitOpen(detail, retry_after_s=left_s if left_s > 0 else 1.0)
            self._probing = True
        return self._phase

    def _settle(self, phase: int, *, failed: bool) -> None:
        if phase != self._phase:
            return
        if self._probing:
            (self._open if failed else self._close)()
            return
        self._calls.append((self.monotonic(), failed))
        self._forget_old_calls()
        n_calls = len(self._calls)
        if failed and n_calls >= self.min_calls and self._n_failures() >= self.failure_ratio * n_calls:
            self._open()

    def _open(self) -> None:
        self._open_until = self.monotonic() + self._next_open_s
        self._next_open_s = min(self.max_open_s, self._next_open_s * 2)
        self._begin_phase("opened")

    def _close(self) -> None:
        self._open_until = None
        self._next_open_s = self.open_s
        self._calls.clear()
        self._begin_phase("closed")

    def _begin_phase(self, outcome: str) -> None:
        self._phase += 1
        self._probing = False
        self.on_recovery("breaker", outcome)

    def _forget_old_calls(self) -> None:
        while self._calls and self._calls[0][0] < self.monotonic() - self.window_s:
            self._calls.popleft()

    def _n_failures(self) -> int:
        return sum(failed for _, failed in self._calls)


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """A result, and who made it.

    Args:
        value: The result.
        served_by: Name of the candidate that made it.
        failures: Names and errors of the candidates before it.
    """

    value: T
    served_by: str
    failures: tuple[tuple[str, Exception], ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether it was not the first choice."""
        return bool(self.failures)


@dataclass(frozen=True, slots=True)
class FallbackChain(Generic[T]):
    """Asks candidates in order until one succeeds.

    Args:
        candidates: At least one pair of a name and the function that asks it.
        is_curable: Whether an error is a reason to ask the next one.
        on_recovery: Told when another than the first succeeded, or none.
    """

    candidates: Sequence[tuple[str, Callable[[], Awaitable[T]]]]
    _: KW_ONLY
    is_curable: Callable[[Exception], bool] = is_curable_elsewhere
    on_recovery: Observer = unobserved

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("A fallback chain needs at least one candidate.")

    async def call(self, deadline_s: float | None = None) -> Served[T]:
        """Ask the candidates.

        Args:
            deadline_s: Seconds for all of them together.

        Raises:
            DeadlineExceeded: The deadline passed.
            Exception: The error of the last one asked; its notes tell of those before it.
        """
        return await _within(deadline_s, self._first_success)

    async def _first_success(self) -> Served[T]:
        failures: list[tuple[str, Exception]] = []
        for position, (name, function) in enumerate(self.candidates, start=1):
            try:
                value = await function()
            except Exception as error:
                if position == len(self.candidates) or not self.is_curable(error):
                    for earlier, cause in failures:
                        error.add_note(f"Before this, {earlier} failed with {type(cause).__name__}: {cause}")
                    if failures:
                        self.on_recovery("fallback", "exhausted")
                    raise
                failures.append((name, error))
            else:
                if failures:
                    self.on_recovery("fallback", "recovered")
                return Served(value, name, tuple(failures))
        raise AssertionError("A fallback chain has at least one candidate.")
