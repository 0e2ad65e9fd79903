"""The clock of one connection, with the time in the test's hand."""

import pytest

from corsac.core.http.limits import Phase, ProtocolLimits, RequestClock

LIMITS = ProtocolLimits(header_timeout_s=10, body_idle_timeout_s=15, body_bytes_per_s=1000)


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def clock(time):
    clock = RequestClock(LIMITS, time)
    clock.expect_header()
    return clock


def test_header_has_its_time_from_the_first_byte(clock):
    assert (clock.phase, clock.deadline) == (Phase.HEADER, 10)


@pytest.mark.parametrize(
    ("pieces", "deadline"),
    [
        ([], 15),
        ([(5, 1_000_000)], 20),  # fast so far: the pause counts
        ([(5, 10), (10, 10)], 15.02),  # a trickle: every 1000 bytes buy a second
        ([(14, 100_000), (29, 1)], 44),
    ],
)
def test_body_ends_with_its_pause_or_with_its_rate(clock, time, pieces, deadline):
    clock.expect_body()
    for time.now, size_bytes in pieces:
        clock.receive_body(size_bytes)
    assert clock.deadline == pytest.approx(deadline)


def test_client_that_waited_for_us_starts_anew(clock, time):
    clock.expect_body()
    time.now = 14
    clock.restart()
    assert clock.deadline == 14 + 15


def test_nothing_is_waited_for_between_requests(clock):
    clock.expect_nothing()
    clock.restart()
    assert (clock.phase, clock.deadline) == (Phase.IDLE, None)
