"""Events on the wire: one encoder, two formats with the same events and ids.

Data is JSON in one line, so no text in it can end a field or an event. JSON would let some line separators stand as
they are; readers that split at those (Python's `str.splitlines`, old JavaScript) must not see a line end either.

Source: WHATWG HTML, section 9.2 (server-sent events); github.com/ndjson/ndjson-spec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from corsac.core.streams.event import Record

SSE_TYPE = "text/event-stream"
NDJSON_TYPE = "application/x-ndjson"
STREAMED = (SSE_TYPE, NDJSON_TYPE)
RETRY_MS = 2000
UNSAFE = tuple((each.encode(), f"\\u{ord(each):04x}".encode()) for each in "\u0085\u2028\u2029\ufeff")


def to_json(data: Any) -> bytes:
    """Data as JSON in one line. Numbers that are not finite become null.

    Raises:
        TypeError: JSON cannot express it.
    """
    try:
        encoded = orjson.dumps(data, default=_plain)
    except TypeError:
        # Half a surrogate pair, which a model can produce, has no UTF-8; as an escape it arrives.
        encoded = json.dumps(data, default=_plain, separators=(",", ":"), allow_nan=False).encode("ascii")
    if not encoded.isascii():
        for character, escape in UNSAFE:
            encoded = encoded.replace(character, escape)
    return encoded


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"An event's data is what JSON can express, not {type(value).__name__}.")


def sse_frames(records: Iterable[Record]) -> bytes:
    """The records as server-sent events."""
    return b"".join(
        [
            b"id: %d\nevent: %b\ndata: %b\n\n" % (each.id, each.type.encode(), each.json)
            if each.id
            else b"event: %b\ndata: %b\n\n" % (each.type.encode(), each.json)
            for each in records
        ]
    )


def ndjson_frames(records: Iterable[Record]) -> bytes:
    """The records as lines of JSON."""
    return b"".join(
        [b'{"id":%d,"type":"%b","data":%b}\n' % (each.id, each.type.encode(), each.json) for each in records]
    )


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a stream.

    Args:
        content_type: Value of the header.
        frames: Encodes records.
        preamble: Goes first; tells an EventSource when to come back.
        heartbeat: Says nothing and keeps the connection in use, so that a dead peer is noticed.
    """

    content_type: str
    frames: Callable[[Iterable[Record]], bytes]
    preamble: bytes
    heartbeat: bytes


SSE = Format(SSE_TYPE, sse_frames, b"retry: %d\n\n" % RETRY_MS, b":\n\n")
NDJSON = Format(NDJSON_TYPE, ndjson_frames, b"", b"\n")


def format_of(media_type: str) -> Format:
    """The format of a negotiated media type; SSE where it is none of a stream's."""
    return NDJSON if media_type == NDJSON_TYPE else SSE
