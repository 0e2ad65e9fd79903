"""How tokens become words, sentences and chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.core.exceptions import InvalidChoice
from corsac.core.streams.encoding import to_json
from corsac.core.streams.event import Record
from corsac.core.streams.granularity import Coalescer, Granularity, granularity_of

TOKENS = ["Pi", " is", " 3", ".", "14", ".", " E", "ul", "er", " said", ' "no', '."', " Then", " he"]


def records_of(*data: Any) -> list[Record]:
    return [Record(index + 1, "token", to_json(each)) for index, each in enumerate(data)]


def texts(records: list[Record]) -> list[str]:
    return [json.loads(record.json)["text"] for record in records]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("token", TOKENS),
        ("word", ["Pi", " is", " 3.14.", " Euler", " said", ' "no."', " Then", " he"]),
        ("sentence", ["Pi is 3.14.", ' Euler said "no."', " Then he"]),
        ("chunk", ["".join(TOKENS)]),
    ],
)
def test_texts_join_up_to_their_boundary(granularity: Granularity, expected: list[str]) -> None:
    coalescer = Coalescer(granularity)
    sent = coalescer.take(records_of(*({"text": token} for token in TOKENS))) + coalescer.flush()
    assert texts(sent) == expected
    assert sent[-1].id == len(TOKENS)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"text": "a", "index": 0}, {"text": "b", "index": 1}),
        ({"text": "a"}, {"text": "b", "last": True}),
        ({"text": "a"}, {"n": 1}),
        ({"text": "a"}, ["text"]),
        ({"text": "a"}, {"text": 1}),
    ],
)
def test_events_that_differ_in_more_than_their_text_stay_apart(first: Any, second: Any) -> None:
    records = records_of(first, second)
    assert Coalescer("chunk").take(records) == records


@given(
    st.lists(st.text(st.sampled_from("ab .!?\n。\u2028"), max_size=4)), st.sampled_from(["word", "sentence", "chunk"])
)
def test_no_text_is_lost_and_ids_rise(tokens: list[str], granularity: Granularity) -> None:
    coalescer, sent = Coalescer(granularity), list[Record]()
    for record in records_of(*({"text": token} for token in tokens)):
        sent += coalescer.take([record])
    sent += coalescer.flush()
    assert "".join(texts(sent)) == "".join(tokens)
    assert [each.id for each in sent] == sorted({each.id for each in sent})


def test_a_text_without_a_boundary_is_sent_all_the_same() -> None:
    sent = Coalescer("sentence").take(records_of(*({"text": "a" * 100} for _ in range(100))))
    assert {len(text) for text in texts(sent)} == {4000}


def test_an_unknown_granularity_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidChoice) as refused:
        granularity_of("letter")
    assert "token, word, sentence, chunk" in refused.value.errors[0].detail
