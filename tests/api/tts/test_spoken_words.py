"""Two spellings of the same speech are the same words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.api.tts.spoken_words import spoken_words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, WORLD!", "hello world"),
        ("It’s the dog's", "its the dogs"),
        ("a well-known café", "a well known cafe"),
        ("7", "seven"),
        ("23 and 100", "twenty three and one hundred"),
        ("105", "one hundred and five"),
        ("1,250 dollars", "$1,250"),
        ("1250 dollars", "one thousand two hundred fifty dollars"),
        ("$1,250, due", "one thousand two hundred fifty dollars due"),
        ("$4.50", "four dollars fifty cents"),
        ("£1.01", "one pound one penny"),
        ("€20.00", "twenty euros"),
        ("In 1998, and 2019.", "in nineteen ninety eight and twenty nineteen"),
        ("2005", "two thousand five"),
        ("3.5 %", "three point five percent"),
        ("10:30", "1030"),
        ("2:05, 5:00", "two oh five five"),
        ("1st 2nd 12th 20th 21st", "first second twelfth twentieth twenty first"),
        ("2,000,000", "two million"),
        ("Dr. Lee & Mr. Ray", "doctor lee and mister ray"),
        ("10 a.m. in the U.S.", "ten am in the us"),
        ("007", "seven"),
        ("12345678901234567", "one two three four five six seven eight nine zero one two three four five six seven"),
    ],
)
def test_spellings_of_one_speech_are_one(one: str, other: str) -> None:
    assert spoken_words(one) == spoken_words(other)


@pytest.mark.parametrize(
    ("one", "other"), [("15", "50"), ("1998", "1989"), ("two", "too"), ("$5", "£5"), ("3.5", "35")]
)
def test_different_speech_stays_different(one: str, other: str) -> None:
    assert spoken_words(one) != spoken_words(other)


@given(st.text(max_size=300))
def test_any_text_becomes_words_that_stay_the_same(text: str) -> None:
    words = spoken_words(text)
    assert all(word and word == word.strip() for word in words)
    assert spoken_words(" ".join(words)) == words or not " ".join(words).isascii()
