"""No body, however broken, gets a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server import JSON, Server, request

WHOLE = b'{"text": "Good morning.", "voice": "auto", "speed": 1.0, "format": "wav", "quality": "off"}'
VALUES = (
    *(b"", b" ", b"null", b"true", b"-", b"-0", b"0x1", b"01", b"1.", b".5", b"1e", b"1e5000", b"-1e999"),
    *(b"NaN", b"nan", b"Infinity", b"9" * 309, b"-" + b"9" * 5000, b"1e-999", b"2e0", b"[]", b"[[]]", b"{}"),
    *(b'"', b'""', b'"\\"', b'"\\x"', b'"\\u12"', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b"'a'"),
    *(b'"\x00"', b'"\n"', b'"\x1b[0m"', b'"\x7f"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf5"'),
    *(b"[" * 70, b"{" * 70, b'{"a":' * 70, b"[" * 50_000, b'[{"a":' * 20_000, b"/**/1", b"#", b"1 2", b"1,"),
)
BROKEN = [
    *VALUES,
    *(b'{"text": %s}' % value for value in VALUES),
    *(b'{"text": "a", "speed": %s}' % value for value in VALUES),
    *(WHOLE[:cut] for cut in range(0, len(WHOLE), 9)),
    *(WHOLE.decode().encode(encoding) for encoding in ("utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037")),
    *(WHOLE + tail for tail in (b"x", b"\x00", b"\xff", WHOLE, b"//")),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("broken-bodies") / "data") as server:
        server.wait_until_ready("speech:espeak")
        yield server


@pytest.fixture(scope="module")
def keys(server: Server) -> Iterator[str]:
    """A key for each body: sixty requests a minute is what one may send."""

    def fresh() -> Iterator[str]:
        while True:
            yield from repeat(server.create_key("fresh", "tts"), 50)

    return fresh()


def status_of(body: bytes, server: Server, key: str) -> int:
    fields = JSON, f"Authorization: Bearer {key}", f"Content-Length: {len(body)}"
    return server.send(request("POST", "/api/tts/synthesize", *fields, body=body)).status


def test_written_by_hand(server: Server, keys: Iterator[str]) -> None:
    statuses = {body: status_of(body, server, next(keys)) for body in BROKEN}
    assert len(statuses) > 150
    assert {body: status for body, status in statuses.items() if status not in (200, 400, 422)} == {}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body in which some bytes were replaced by others."""
    start = draw(st.integers(0, len(WHOLE)))
    end = draw(st.integers(start, min(start + 20, len(WHOLE))))
    return WHOLE[:start] + draw(st.binary(max_size=20)) + WHOLE[end:]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(body=damaged() | st.binary(max_size=200))
def test_damaged_by_chance(server: Server, keys: Iterator[str], body: bytes) -> None:
    assert status_of(body, server, next(keys)) in (200, 400, 422)
