"""A call tells who asks, and how long the work may take."""

from __future__ import annotations

import pytest
from tests.conftest import Clock

from corsac.core.call import Call
from corsac.core.exceptions import DeadlineExceeded
from corsac.core.identity import OWNER


@pytest.mark.parametrize(("left_s", "at_most", "expected"), [(30, 600, 30), (30, 5, 5), (None, 600, 600), (None, 5, 5)])
def test_the_remaining_time_is_the_deadlines_or_the_works(
    clock: Clock, left_s: float | None, at_most: float, expected: float
) -> None:
    deadline = None if left_s is None else clock.now + left_s
    assert Call("r1", deadline=deadline, monotonic=clock).remaining_s(at_most) == expected


@pytest.mark.parametrize("passed_s", [30, 31])
def test_nothing_is_left_after_the_deadline(clock: Clock, passed_s: float) -> None:
    call = Call("r1", deadline=clock.now + 30, monotonic=clock)
    clock.now += passed_s
    with pytest.raises(DeadlineExceeded):
        call.remaining_s()


def test_a_local_call_is_the_owners(clock: Clock) -> None:
    call = Call.local(timeout_s=60)
    assert call.principal is OWNER
    assert 59 < call.remaining_s() <= 60
    assert Call.local().request_id != call.request_id


def test_a_call_by_nobody_has_no_principal() -> None:
    with pytest.raises(LookupError):
        _ = Call("r1").principal
