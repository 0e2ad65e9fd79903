"""A cursor is a position that only this server could have given out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.core.exceptions import InvalidCursor
from corsac.core.paging import CursorSigner, Page

SIGNER = CursorSigner(b"secret")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_position_comes_back_from_a_cursor_for_urls(position: str) -> None:
    cursor = SIGNER.sign(position)
    assert SIGNER.position(cursor) == position
    assert cursor.isascii()
    assert not set(cursor) & set("+/&?# ")


def test_without_a_cursor_a_list_starts_at_its_beginning() -> None:
    assert SIGNER.position("") == ""


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%%%%",
        "=",
        "é",
        "\ud800",
        "AAAA",
        "A" * 400,
        " ",
        CursorSigner(b"other").sign("5"),
        SIGNER.sign("5") + "AAAA",
    ],
)
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        SIGNER.position(cursor)


@given(place=st.integers(0, 30), letter=st.sampled_from("AZaz09-_"))
def test_a_tampered_cursor_is_refused_or_means_the_same(place: int, letter: str) -> None:
    cursor = SIGNER.sign("1000005")
    tampered = cursor[:place] + letter + cursor[place + 1 :]
    try:
        assert SIGNER.position(tampered) == "1000005"
    except InvalidCursor:
        assert tampered != cursor


def test_the_last_page_has_no_cursor() -> None:
    assert Page[int](items=[1]).model_dump() == {"items": [1], "next_cursor": None}
