"""The client gets the type that it prefers of those there are, or learns which there are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.core.exceptions import NotAcceptable
from corsac.core.http.negotiation import negotiate

JSON, AUDIO = "application/json", "audio/*"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("audio/*", AUDIO),
        ("audio/ogg", AUDIO),
        ("audio/ogg;q=0.5, application/json;q=0.4", AUDIO),
        ("audio/ogg;q=0.4, application/json;q=0.5", JSON),
        ("audio/ogg, application/json", JSON),
        ("*/*;q=0.1, audio/wav", AUDIO),
        ("application/json;q=0, */*", AUDIO),
        ("audio/ogg;q=0, audio/*", AUDIO),
        ("text/html, */*;q=0.1", JSON),
        ("audio/*;q=rubbish, application/json;q=0.001", JSON),
        (",,application/json,", JSON),
    ],
)
def test_the_best_offer_is_chosen(accept: str, expected: str) -> None:
    assert negotiate(accept, (JSON, AUDIO)) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "image/png",
        "image/*",
        "application/json;q=0",
        "*/*;q=0",
        "application",
        "json",
        "audio/*;q=nan",
        ";",
        "a" * 9000,
    ],
)
def test_nothing_that_fits_is_a_406_with_the_offers(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/json, audio/\*"):
        negotiate(accept, (JSON, AUDIO))


@given(st.text(max_size=80) | st.text("*/;q=.,01 aio", max_size=40))
def test_any_header_chooses_an_offer_or_none(accept: str) -> None:
    with suppress(NotAcceptable):
        assert negotiate(accept, (JSON, AUDIO)) in (JSON, AUDIO)
