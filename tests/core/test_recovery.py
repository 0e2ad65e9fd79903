"""The strategies call the function again, within their bounds, and say what they did."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from corsac.core.exceptions import (
    CircuitOpen,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidChoice,
    NotFound,
    RateLimited,
    ShuttingDown,
    StorageFailed,
    Unavailable,
    WorkerCrashed,
    WorkerOutOfMemory,
)
from corsac.core.recovery import (
    CircuitBreaker,
    FallbackChain,
    RetryBudget,
    RetryPolicy,
    Served,
    retry,
)


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Upstream:
    """Plays a script of errors and values, the last one for ever, and counts its calls."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.n_calls = 0

    async def __call__(self) -> Any:
        self.n_calls += 1
        entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(entry, BaseException):
            raise entry
        return entry


class Hanging:
    """Waits until it is released."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.released = asyncio.Event()

    async def __call__(self) -> str:
        self.n_calls += 1
        await self.released.wait()
        return "late"


class Rules(dict[str, Any]):
    """What `retry` takes besides the function; full pauses, ample budget."""

    def __init__(self, clock: Clock, **changed: Any) -> None:
        self.told: list[tuple[str, str]] = []
        super().__init__(
            policy=RetryPolicy(attempts=3, base_s=0.1, cap_s=5.0),
            budget=RetryBudget(ratio=10.0, monotonic=clock),
            deadline_s=60.0,
            idempotent=True,
            on_recovery=lambda *event: self.told.append(event),
            sleep=clock.sleep,
            random=lambda: 1.0,
            monotonic=clock,
        )
        self.update(changed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Retry


async def test_a_passing_failure_is_cured_by_calling_again(clock: Clock) -> None:
    upstream, rules = Upstream(ConnectionResetError(), Unavailable(), "answer"), Rules(clock)
    assert await retry(upstream, **rules) == "answer"
    assert upstream.n_calls == 3
    assert clock.slept == [0.1, 0.2]
    assert rules.told == [("retry", "retried"), ("retry", "retried"), ("retry", "recovered")]


async def test_the_last_error_is_raised_after_the_last_attempt(clock: Clock) -> None:
    last = TimeoutError()
    upstream, rules = Upstream(Unavailable(), Unavailable(), last), Rules(clock)
    with pytest.raises(TimeoutError) as raised:
        await retry(upstream, **rules)
    assert raised.value is last
    assert upstream.n_calls == 3
    assert rules.told[-1] == ("retry", "exhausted")


async def test_what_may_do_harm_is_called_once(clock: Clock) -> None:
    upstream = Upstream(ConnectionResetError(), "answer")
    with pytest.raises(ConnectionResetError):
        await retry(upstream, **Rules(clock, idempotent=False))
    assert upstream.n_calls == 1


@pytest.mark.parametrize(
    "error",
    [
        InvalidChoice(),
        NotFound(),
        EngineUnavailable(),
        StorageFailed(),
        CircuitOpen(),
        ShuttingDown(),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_does_not_pass_is_raised_at_once(clock: Clock, error: Exception) -> None:
    upstream = Upstream(error, "answer")
    with pytest.raises(type(error)):
        await retry(upstream, **Rules(clock))
    assert (upstream.n_calls, clock.slept) == (1, [])


async def test_pauses_are_anywhere_between_zero_and_a_doubling_bound_with_a_cap() -> None:
    policy, draw = RetryPolicy(base_s=0.1, cap_s=0.5), random.Random(7).random
    for failed, bound in [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (9, 0.5)]:
        pauses = [policy.pause_s(failed, draw) for _ in range(500)]
        assert 0 <= min(pauses) < 0.1 * bound
        assert 0.9 * bound < max(pauses) <= bound


async def test_retry_after_is_obeyed(clock: Clock) -> None:
    upstream = Upstream(RateLimited(retry_after_s=7), "answer")
    assert await retry(upstream, **Rules(clock)) == "answer"
    assert clock.slept == [pytest.approx(7.1)]


async def test_a_retry_after_beyond_the_deadline_is_passed_on_at_once(clock: Clock) -> None:
    upstream, rules = Upstream(RateLimited(retry_after_s=120), "answer"), Rules(clock)
    with pytest.raises(RateLimited) as raised:
        await retry(upstream, **rules)
    assert (raised.value.retry_after_s, upstream.n_calls, clock.slept) == (120, 1, [])
    assert rules.told == [("retry", "deadline")]


async def test_time_that_calls_took_counts_towards_the_deadline(clock: Clock) -> None:
    async def slow() -> None:
        clock.now += 25
        raise Unavailable

    with pytest.raises(Unavailable):
        await retry(slow, **Rules(clock, policy=RetryPolicy(attempts=9), deadline_s=60))
    assert clock.now == pytest.approx(1000 + 75.3)


async def test_a_call_is_stopped_at_the_deadline(clock: Clock) -> None:
    upstream = Hanging()
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(1):
            await retry(upstream, **Rules(clock, deadline_s=0.02))
    assert upstream.n_calls == 1


async def test_nothing_is_called_once_the_deadline_has_passed(clock: Clock) -> None:
    upstream = Upstream("answer")
    with pytest.raises(DeadlineExceeded):
        await retry(upstream, **Rules(clock, deadline_s=0))
    assert upstream.n_calls == 0


async def test_a_cancelled_call_is_not_repeated(clock: Clock) -> None:
    upstream = Upstream(asyncio.CancelledError(), "answer")
    with pytest.raises(asyncio.CancelledError):
        await retry(upstream, **Rules(clock))
    assert upstream.n_calls == 1


async def test_the_budget_holds_repetitions_to_a_tenth_under_half_failures(clock: Clock) -> None:
    n_calls, draw = 0, random.Random(1)

    async def flaky() -> str:
        nonlocal n_calls
        n_calls += 1
        if draw.random() < 0.5:
            raise ConnectionResetError
        return "answer"

    async def no_time(_: float) -> None:
        """Time stands still, so nothing is earned but by calls."""

    rules = Rules(clock, budget=RetryBudget(monotonic=clock), sleep=no_time)
    for _ in range(10_000):
        await asyncio.gather(retry(flaky, **rules), return_exceptions=True)
    assert 10_900 <= n_calls <= 11_000
    assert ("retry", "budget") in rules.told


def spent(budget: RetryBudget) -> int:
    n = 0
    while budget.withdraw():
        n += 1
    return n


def test_time_pays_for_the_repetitions_of_a_rare_call_and_no_more(clock: Clock) -> None:
    budget = RetryBudget(monotonic=clock)
    assert spent(budget) == 0
    clock.now += 1
    assert spent(budget) == 1
    clock.now += 3600
    assert spent(budget) == 2


def test_calls_in_good_times_do_not_pay_for_a_storm(clock: Clock) -> None:
    budget = RetryBudget(monotonic=clock)
    for _ in range(100_000):
        budget.deposit()
    assert spent(budget) == 10


# Circuit breaker


class BreakerUnderTest:
    def __init__(self, clock: Clock, **options: Any) -> None:
        self.told: list[str] = []
        self.clock = clock
        self.breaker = CircuitBreaker(
            "tester", monotonic=clock, on_recovery=lambda _, outcome: self.told.append(outcome), **options
        )

    async def call(self, *script: Any) -> list[Any]:
        """The results of one call for each entry."""
        return [
            (await asyncio.gather(self.breaker.call(Upstream(entry)), return_exceptions=True))[0] for entry in script
        ]

    async def open(self) -> None:
        await self.call(*[ConnectionError()] * 5)
        assert self.breaker.state == "open"


@pytest.fixture
def tested(clock: Clock) -> BreakerUnderTest:
    return BreakerUnderTest(clock)


async def test_a_breaker_opens_at_half_failures_of_five_calls(tested: BreakerUnderTest) -> None:
    await tested.call("ok", "ok", ConnectionError(), Unavailable())
    assert tested.breaker.state == "closed"
    await tested.call(TimeoutError())
    assert tested.breaker.state == "open"
    assert tested.told == ["opened"]


async def test_an_open_breaker_refuses_without_a_call_and_says_for_how_long(tested: BreakerUnderTest) -> None:
    await tested.open()
    tested.clock.now += 4
    upstream = Upstream("answer")
    with pytest.raises(CircuitOpen, match="tester has failed too often") as refused:
        await tested.breaker.call(upstream)
    assert refused.value.retry_after_s == pytest.approx(6)
    assert upstream.n_calls == 0


@pytest.mark.parametrize(
    ("old", "pause_s", "new"),
    [(["ok"] * 30, 31, [ConnectionError()] * 5), (["ok"] * 100, 0, [ConnectionError()] * 10)],
    ids=["30 seconds", "20 calls"],
)
async def test_only_recent_calls_are_looked_at(
    tested: BreakerUnderTest, old: Iterable[str], pause_s: float, new: list[Exception]
) -> None:
    await tested.call(*old)
    tested.clock.now += pause_s
    await tested.call(*new[:-1])
    assert tested.breaker.state == "closed"
    await tested.call(new[-1])
    assert tested.breaker.state == "open"


async def test_answers_that_blame_the_caller_are_no_failures(tested: BreakerUnderTest) -> None:
    await tested.call(*[NotFound(), RateLimited(), InvalidChoice()] * 10)
    assert tested.breaker.snapshot().n_failures == 0
    await tested.call(*[WorkerCrashed()] * 10)
    assert tested.breaker.state == "open"


async def test_a_probe_that_succeeds_closes_the_breaker_and_forgets_the_past(
    tested: BreakerUnderTest,
) -> None:
    await tested.open()
    tested.clock.now += 10
    assert tested.breaker.state == "half_open"
    assert await tested.call("ok") == ["ok"]
    assert (tested.breaker.state, tested.breaker.snapshot().n_calls) == ("closed", 0)
    assert tested.told == ["opened", "closed"]


async def test_probes_that_fail_double_the_wait_up_to_its_bound(tested: BreakerUnderTest) -> None:
    await tested.open()
    waits = []
    for _ in range(6):
        waits.append(tested.breaker.snapshot().retry_after_s)
        tested.clock.now += waits[-1]
        await tested.call(Unavailable())
    assert waits == pytest.approx([10, 20, 40, 80, 120, 120])


async def test_the_wait_starts_over_after_a_recovery(tested: BreakerUnderTest) -> None:
    await tested.open()
    for wait_s, result in [(10, Unavailable()), (20, "ok")]:
        tested.clock.now += wait_s
        await tested.call(result)
    await tested.open()
    assert tested.breaker.snapshot().retry_after_s == pytest.approx(10)


async def test_of_many_calls_at_once_one_probes(tested: BreakerUnderTest) -> None:
    await tested.open()
    tested.clock.now += 10
    upstream = Hanging()
    calls = [asyncio.create_task(tested.breaker.call(upstream)) for _ in range(100)]
    await asyncio.sleep(0)
    upstream.released.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert upstream.n_calls == 1
    assert results.count("late") == 1
    assert sum(isinstance(result, CircuitOpen) for result in results) == 99


async def test_a_cancelled_probe_counts_neither_way_and_lets_the_next_call_probe(
    tested: BreakerUnderTest,
) -> None:
    await tested.open()
    tested.clock.now += 10
    probe = asyncio.create_task(tested.breaker.call(Hanging()))
    await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert tested.breaker.state == "half_open"
    assert await tested.call("ok") == ["ok"]
    assert tested.breaker.state == "closed"


async def test_cancelled_calls_do_not_open_a_breaker(tested: BreakerUnderTest) -> None:
    for _ in range(20):
        with pytest.raises(asyncio.CancelledError):
            await tested.breaker.call(Upstream(asyncio.CancelledError()))
    assert tested.breaker.snapshot().n_calls == 0


async def test_a_call_from_before_the_opening_does_not_close_it(tested: BreakerUnderTest) -> None:
    early, probe = Hanging(), Hanging()
    late_success = asyncio.create_task(tested.breaker.call(early))
    await asyncio.sleep(0)
    await tested.open()
    tested.clock.now += 10
    probing = asyncio.create_task(tested.breaker.call(probe))
    await asyncio.sleep(0)
    early.released.set()
    await late_success
    assert isinstance((await tested.call("ok"))[0], CircuitOpen)
    probe.released.set()
    await probing
    assert tested.breaker.state == "closed"


async def test_a_snapshot_tells_health_what_the_breaker_saw(tested: BreakerUnderTest) -> None:
    await tested.call("ok", "ok", Unavailable())
    seen = tested.breaker.snapshot()
    assert (seen.name, seen.state, seen.n_calls, seen.n_failures) == ("tester", "closed", 3, 1)
    assert seen.retry_after_s == 0


async def test_a_retry_around_a_breaker_stops_when_it_opens(clock: Clock) -> None:
    breaker = CircuitBreaker("tester", min_calls=2, monotonic=clock)
    upstream = Upstream(Unavailable())
    with pytest.raises(CircuitOpen):
        await retry(lambda: breaker.call(upstream), **Rules(clock, policy=RetryPolicy(attempts=5)))
    assert upstream.n_calls == 2


# Fallback


def chain(*candidates: Callable[[], Awaitable[Any]], told: list[tuple[str, str]] | None = None) -> FallbackChain[Any]:
    events = [] if told is None else told
    named = [(f"engine {n}", candidate) for n, candidate in enumerate(candidates, 1)]
    return FallbackChain(named, on_recovery=lambda *event: events.append(event))


async def test_the_first_choice_serves_undegraded_and_alone() -> None:
    second = Upstream("second")
    served = await chain(Upstream("first"), second).call()
    assert served == Served("first", "engine 1")
    assert not served.degraded
    assert second.n_calls == 0


@pytest.mark.parametrize(
    "error",
    [
        Unavailable(),
        EngineUnavailable(),
        CircuitOpen(),
        WorkerCrashed(),
        WorkerOutOfMemory(),
        DeadlineExceeded(),
        TimeoutError(),
        ConnectionRefusedError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_next_engine_serves_and_the_answer_says_so(error: Exception) -> None:
    told: list[tuple[str, str]] = []
    served = await chain(Upstream(error), Upstream("second"), told=told).call()
    assert (served.value, served.served_by, served.degraded) == ("second", "engine 2", True)
    assert served.failures == (("engine 1", error),)
    assert told == [("fallback", "recovered")]


@pytest.mark.parametrize(
    "error",
    [
        InvalidChoice(),
        NotFound(),
        RateLimited(),
        ShuttingDown(),
        StorageFailed(),
        ValueError(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_no_other_engine_cures_is_raised_at_once(error: BaseException) -> None:
    second = Upstream("second")
    with pytest.raises(type(error)):
        await chain(Upstream(error), second).call()
    assert second.n_calls == 0


async def test_the_last_error_is_raised_with_the_earlier_ones_as_notes() -> None:
    told: list[tuple[str, str]] = []
    engines = Upstream(WorkerCrashed()), Upstream(ConnectionError("gone")), Upstream(EngineUnavailable())
    with pytest.raises(EngineUnavailable) as raised:
        await chain(*engines, told=told).call()
    assert raised.value.__notes__ == [
        "Before this, engine 1 failed with WorkerCrashed: The process that did the work died.",
        "Before this, engine 2 failed with ConnectionError: gone",
    ]
    assert told == [("fallback", "exhausted")]


async def test_one_deadline_is_shared_by_all_engines() -> None:
    hanging, third = Hanging(), Upstream("third")
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(1):
            await chain(Upstream(Unavailable()), hanging, third).call(deadline_s=0.02)
    assert (hanging.n_calls, third.n_calls) == (1, 0)


def test_a_chain_of_nobody_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        chain()
