"""No text can forge an event, in either format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from corsac.core.streams.encoding import NDJSON, SSE, to_json
from corsac.core.streams.event import Record

NASTY = '\r\n\u0085\u2028\u2029\ufeff\0\x0b\x0c\x1c\x1e :{}"\\aé😀'


def parsed_sse(lines: list[str]) -> list[tuple[str, str, Any]]:
    """Events as an EventSource would see them, given the text's lines."""
    events, fields = [], dict[str, str]()
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = fields[name] + "\n" + value[1:] if name in fields else value.removeprefix(" ")
        elif fields:
            events.append((fields["id"], fields["event"], json.loads(fields["data"])))
            fields = {}
    return events


def nasty_texts(n: int) -> Iterator[str]:
    random = Random(8)
    for _ in range(n):
        yield "".join(
            random.choice(NASTY) if random.random() < 0.7 else chr(random.choice((random.randrange(0x800), 0x1F600)))
            for _ in range(random.randrange(20))
        )


def test_text_arrives_as_it_was_and_forges_nothing() -> None:
    for text in nasty_texts(10_000):
        data = {"text": text, text: [text]}
        record = Record(7, "token", to_json(data))
        sse, ndjson = (form.frames([record, record]).decode() for form in (SSE, NDJSON))
        assert parsed_sse(sse.split("\n")) == [("7", "token", data)] * 2
        # Readers that split at every line separator of Unicode see the same.
        assert sse.splitlines() == sse.split("\n")[:-1]
        assert [json.loads(line) for line in ndjson.splitlines()] == [{"id": 7, "type": "token", "data": data}] * 2


class Point(BaseModel):
    x: float


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"x": float("nan")}, b'{"x":null}'),
        (Point(x=1.5), b'{"x":1.5}'),
        ([Point(x=2)], b'[{"x":2.0}]'),
        ("\ud800", b'"\\ud800"'),
        (None, b"null"),
        (2**70, b"1180591620717411303424"),
    ],
)
def test_data_becomes_one_line_of_json(data: Any, expected: bytes) -> None:
    assert to_json(data) == expected


def test_what_json_cannot_express_is_refused() -> None:
    with pytest.raises(TypeError, match="not object"):
        to_json({"x": object()})


def test_an_event_without_an_id_leaves_the_clients_last_one_alone() -> None:
    assert SSE.frames([Record(0, "reset", b"{}")]) == b"event: reset\ndata: {}\n\n"
