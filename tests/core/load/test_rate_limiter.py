"""Limits admit what they say, whatever the clock on the wall, the neighbours or the number of keys do."""

from __future__ import annotations

import doctest
import inspect
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.core.exceptions import RateLimited
from corsac.core.load import rate_limiter
from corsac.core.load.rate_limiter import (
    CostTooLarge,
    Limit,
    RateLimiter,
    peer_key,
    per_minute,
    rate_limit_headers,
)


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def never_late() -> float:
    return 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.1)


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(clock, never_late)


@pytest.mark.parametrize("start", [0.0, 0.1, 1_234_567.89, 4e9])
def test_exactly_ten_of_eleven_requests_pass_ten_per_minute(start: float) -> None:
    limiter = RateLimiter(Clock(start))
    assert [limiter.take("a", per_minute(10)).allowed for _ in range(11)] == [True] * 10 + [False]


@given(
    rate=st.floats(0.5, 100_000),
    burst=st.integers(1, 500),
    steps=st.lists(st.tuples(st.floats(0, 90), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_window_admits_more_than_burst_and_rate(rate: float, burst: int, steps: list[tuple[float, float]]) -> None:
    clock, limit = Clock(12_345.678), Limit(rate, burst)
    limiter = RateLimiter(clock)
    admitted: list[tuple[float, float]] = []
    for pause_s, share in steps:
        clock.now += pause_s
        if limiter.take("a", limit, share * burst).allowed:
            admitted.append((clock.now, share * burst))
    for first in range(len(admitted)):
        used = 0.0
        for at, cost in admitted[first:]:
            used += cost
            assert used <= burst + rate / 60 * (at - admitted[first][0]) + rate * 1e-6 + 1e-6


@given(rate=st.floats(0.5, 10_000), burst=st.integers(1, 50), n_used=st.integers(1, 50))
def test_a_client_that_obeys_retry_after_is_admitted(rate: float, burst: int, n_used: int) -> None:
    clock, limit = Clock(77.7), Limit(rate, burst)
    limiter = RateLimiter(clock, never_late)
    for _ in range(n_used):
        limiter.take("a", limit)
    refused = limiter.take("a", limit, burst)
    clock.now += refused.retry_after_s
    assert not refused.allowed
    assert limiter.take("a", limit, burst).allowed


def test_a_rest_gives_back_no_more_than_the_burst(limiter: RateLimiter, clock: Clock) -> None:
    for _ in range(3):
        limiter.take("a", Limit(60, 3))
    clock.now += 3600
    assert [limiter.take("a", Limit(60, 3)).allowed for _ in range(4)] == [True, True, True, False]


def test_a_decision_says_what_is_left_and_when_it_is_whole_again(limiter: RateLimiter) -> None:
    decision = limiter.take("a", Limit(60, 10), cost=4)
    assert (decision.allowed, decision.retry_after_s) == (True, 0.0)
    assert decision.remaining == pytest.approx(6)
    assert decision.reset_after_s == pytest.approx(4)


def test_a_refused_request_uses_nothing(limiter: RateLimiter) -> None:
    limiter.take("a", Limit(60, 10), cost=8)
    for _ in range(100):
        assert limiter.take("a", Limit(60, 10), cost=3).remaining == pytest.approx(2)
    assert limiter.take("a", Limit(60, 10), cost=2).allowed


def test_asking_without_a_cost_uses_nothing(limiter: RateLimiter) -> None:
    assert [limiter.take("a", per_minute(5), cost=0).remaining for _ in range(9)] == [5] * 9


def test_one_greedy_key_takes_nothing_from_polite_ones(limiter: RateLimiter, clock: Clock) -> None:
    served = {"greedy": 0, **dict.fromkeys((f"polite {n}" for n in range(9)), 0)}
    for step in range(1000):
        clock.now += 0.01
        served["greedy"] += sum(limiter.take("greedy", per_minute(60)).allowed for _ in range(10))
        if step % 100 == 0:
            for key in served:
                served[key] += key != "greedy" and limiter.take(key, per_minute(60)).allowed
    assert served.pop("greedy") <= 60 + 10
    assert set(served.values()) == {10}


@pytest.mark.parametrize("cost", [10.5, 1e300, math.inf])
def test_a_cost_above_the_burst_is_refused_for_good(limiter: RateLimiter, cost: float) -> None:
    with pytest.raises(CostTooLarge, match="no more than 10 are ever admitted") as refused:
        limiter.take("a", per_minute(10), cost)
    assert (refused.value.status, refused.value.retry, refused.value.retry_after_s) == (
        422,
        "fix_first",
        None,
    )


@pytest.mark.parametrize("cost", [-1.0, math.nan])
def test_a_cost_that_is_no_number_of_units_is_an_error_and_changes_nothing(limiter: RateLimiter, cost: float) -> None:
    with pytest.raises(ValueError, match="number of units"):
        limiter.take("a", per_minute(1), cost)
    assert [limiter.take("a", per_minute(1)).allowed for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (60, 0)])
def test_a_limit_that_admits_nothing_or_everything_cannot_be_made(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="of a limit is"):
        Limit(rate, burst)


def test_units_given_back_can_be_used_again(limiter: RateLimiter) -> None:
    limiter.take("a", Limit(60, 10), cost=10)
    limiter.give_back("a", Limit(60, 10), cost=4)
    assert limiter.take("a", Limit(60, 10), cost=4).allowed
    assert not limiter.take("a", Limit(60, 10)).allowed


def test_giving_back_too_much_never_makes_more_than_the_burst(limiter: RateLimiter) -> None:
    limiter.take("a", Limit(60, 10))
    limiter.give_back("a", Limit(60, 10), cost=10)
    limiter.give_back("stranger", Limit(60, 10), cost=10)
    assert limiter.take("a", Limit(60, 10)).remaining == pytest.approx(9)


def test_the_clock_is_one_that_wall_clock_jumps_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect.signature(RateLimiter).parameters["monotonic"].default is time.monotonic
    limiter = RateLimiter()
    limiter.take("a", Limit(0.1, 1))
    monkeypatch.setattr(time, "time", lambda: 2**31 + 0.0)
    assert not limiter.take("a", Limit(0.1, 1)).allowed


def test_a_refusal_tells_when_to_return_and_what_the_limit_is(limiter: RateLimiter) -> None:
    for _ in range(10):
        limiter.require("chat", "a", per_minute(10))
    with pytest.raises(RateLimited, match="The limit chat is 10 in 60 seconds") as refused:
        limiter.require("chat", "a", per_minute(10))
    assert refused.value.retry_after_s == 6
    assert refused.value.headers == {
        "ratelimit-policy": '"chat";q=10;w=60',
        "ratelimit": '"chat";r=0;t=60',
    }


def test_the_header_field_names_no_time_before_retry_after(clock: Clock) -> None:
    limiter = RateLimiter(clock, random=lambda: 0.99)
    limiter.take("a", Limit(2, 1))
    refused = limiter.take("a", Limit(2, 1))
    assert refused.retry_after_s == pytest.approx(30 + 0.99 * 7.5)
    assert refused.headers("chat")[1] == (b"ratelimit", b'"chat";r=0;t=38')


def test_a_fast_limit_still_says_at_least_one_whole_second(limiter: RateLimiter) -> None:
    limiter.take("a", Limit(60_000, 1))
    with pytest.raises(RateLimited) as refused:
        limiter.require("chat", "a", Limit(60_000, 1))
    assert refused.value.retry_after_s == 1


def test_several_limits_share_the_two_header_fields(limiter: RateLimiter) -> None:
    chat, peer = limiter.take("a", per_minute(30)), limiter.take("b", Limit(600, 100), cost=50)
    assert rate_limit_headers([("chat", chat), ("peer", peer)]) == [
        (b"ratelimit-policy", b'"chat";q=30;w=60, "peer";q=100;w=10'),
        (b"ratelimit", b'"chat";r=29;t=2, "peer";r=50;t=5'),
    ]


def test_a_thousand_refused_clients_do_not_return_together(clock: Clock) -> None:
    limiter = RateLimiter(clock)
    limiter.take("a", Limit(2, 1))
    waits = [limiter.take("a", Limit(2, 1)).retry_after_s for _ in range(1000)]
    per_second = [sum(second <= wait < second + 1 for wait in waits) for second in range(30, 38)]
    assert min(waits) >= 30
    assert sum(per_second) == 1000
    assert max(per_second) < 250


def test_keys_that_rest_are_forgotten_while_new_ones_arrive(limiter: RateLimiter, clock: Clock) -> None:
    for n in range(5000):
        clock.now += 0.1
        limiter.take(f"key {n}", per_minute(60))
    assert len(limiter) < 30


def test_memory_is_bounded_and_the_greedy_key_is_remembered(clock: Clock) -> None:
    limiter = RateLimiter(clock, never_late, max_keys=100)
    limiter.take("greedy", per_minute(60), cost=60)
    for n in range(10_000):
        limiter.take(f"key {n}", per_minute(60))
    assert len(limiter) == 100
    assert not limiter.take("greedy", per_minute(60)).allowed


def test_one_remembered_key_is_enough_to_work(clock: Clock) -> None:
    limiter = RateLimiter(clock, max_keys=1)
    assert all(limiter.take(key, per_minute(1)).allowed for key in "abcabc")
    assert len(limiter) == 1


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("", "unknown"),
        ("@", "unknown"),
        ("/run/corsac.sock", "unknown"),
        ("192.0.2.1, 10.0.0.1", "unknown"),
        ("192.0.2.01", "unknown"),
        ("1.2.3.4\0", "unknown"),
        ("１.2.3.4", "unknown"),
        ("12:34", "unknown"),
    ],
)
def test_a_peer_is_its_ipv4_address_or_its_ipv6_network(host: str, key: str) -> None:
    assert peer_key(host) == key


def test_the_documented_examples_run() -> None:
    results = doctest.testmod(rate_limiter)
    assert (results.failed, results.attempted > 0) == (0, True)
