"""What a ring keeps, and what it says about what is gone."""

from __future__ import annotations

import pytest

from corsac.core.streams.ring import Ring, RingLimits


def filled(n: int, limits: RingLimits, *, step: int = 1, size: int = 10) -> Ring:
    ring = Ring(limits)
    for index in range(n):
        ring.append((index + 1) * step, "number", b"x" * size, float(index))
    return ring


@pytest.mark.parametrize(
    ("limits", "kept"), [(RingLimits(events=4), 4), (RingLimits(bytes=35), 3), (RingLimits(age_s=1.5), 2)]
)
def test_the_oldest_go_first(limits: RingLimits, kept: int) -> None:
    ring = filled(10, limits)
    assert [record.id for record in ring.read(ring.start)] == list(range(11 - kept, 11))
    assert ring.size_bytes == 10 * kept


def test_the_newest_is_kept_whatever_its_size() -> None:
    assert len(filled(3, RingLimits(bytes=5))) == 1


def test_nothing_goes_that_somebody_has_yet_to_read() -> None:
    ring = filled(4, RingLimits(events=4))
    for _ in range(4):
        ring.append(0, "number", b"", 5.0, keep_from=2)
    assert (ring.start, ring.end) == (2, 8)


@pytest.mark.parametrize(("after", "first"), [(0, None), (5, None), (6, 7), (8, 9), (9, 10), (10, 11)])
def test_a_place_is_found_by_id_or_known_to_be_gone(after: int, first: int | None) -> None:
    ring = filled(10, RingLimits(events=4))
    position = ring.position_after(after)
    assert position == (None if first is None else first - 1)


def test_ids_with_holes_are_found_between_their_neighbours() -> None:
    ring = filled(4, RingLimits(), step=10)
    assert ring.position_after(25) == 2


def test_an_id_of_the_future_and_one_that_falls_are_refused() -> None:
    ring = filled(3, RingLimits())
    with pytest.raises(LookupError):
        ring.position_after(4)
    with pytest.raises(ValueError, match="3 came after 3"):
        ring.append(3, "number", b"", 9.0)
