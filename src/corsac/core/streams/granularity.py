"""Several small events as one: what a client asks for, and what a slow one gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import orjson

from corsac.core.exceptions import FieldError, InvalidChoice
from corsac.core.streams.encoding import to_json
from corsac.core.streams.event import Record

Granularity = Literal["token", "word", "sentence", "chunk"]
HEADER = "X-Stream-Granularity"
SENTENCE_END = re.compile(r"(?:[.!?…][\"'”’)\]]*\s+|[。！？][”’」』）]*\s*|\n\s*)$")
MAX_MERGED_CHARS = 4096


def granularity_of(value: str) -> Granularity:
    """The granularity that a header names.

    Raises:
        InvalidChoice: There is none of this name.
    """
    known = get_args(Granularity)
    if value not in known:
        place = FieldError(f"header/{HEADER}", InvalidChoice.reason, f"The value must be one of {', '.join(known)}.")
        raise InvalidChoice(errors=[place])
    return value  # type: ignore[return-value]


class Coalescer:
    """Joins the texts of neighbouring events, up to a boundary.

    Two events join when they have one type and their data differ in nothing but a text under `text`, so nothing is
    lost. The joined event has the id of the last, so a client can resume after it.

    Args:
        granularity: How much text an event has: a word, a sentence, or what is there. `token` joins nothing.
    """

    def __init__(self, granularity: Granularity) -> None:
        self.granularity = granularity
        self._last: Record | None = None
        self._rest: dict[str, Any] = {}
        self._text = ""
        self._n_joined = 0

    @property
    def holding(self) -> bool:
        """Whether text waits for its boundary."""
        return self._last is not None

    def take(self, records: Sequence[Record]) -> list[Record]:
        """What can be sent once these have come."""
        if self.granularity == "token":
            return list(records)
        ready: list[Record] = []
        for record in records:
            data = _with_text(record)
            if data is None:
                ready += self.flush()
                ready.append(record)
                continue
            text = data.pop("text")
            same = self._last is not None and self._last.type == record.type and self._rest == data
            if not same or self._ends_before(text):
                ready += self.flush()
            self._last, self._rest, self._text = record, data, self._text + text
            self._n_joined += 1
        if self.granularity == "chunk":
            ready += self.flush()
        return ready

    def flush(self) -> list[Record]:
        """What was held back."""
        if self._last is None:
            return []
        held = self._last
        if self._n_joined > 1:
            held = held._replace(json=to_json({**self._rest, "text": self._text}))
        self._last, self._rest, self._text, self._n_joined = None, {}, "", 0
        return [held]

    def _ends_before(self, text: str) -> bool:
        if len(self._text) + len(text) > MAX_MERGED_CHARS:
            return True
        if self.granularity == "word":
            return self._text[-1:].isspace() or text[:1].isspace()
        if self.granularity == "sentence":
            # Tokens carry the space before their word, so the end shows only with the next one.
            return bool(SENTENCE_END.search(self._text + text[: len(text) - len(text.lstrip())]))
        return False


def _with_text(record: Record) -> dict[str, Any] | None:
    if b'"text":"' not in record.json:
        return None
    data = orjson.loads(record.json)
    return data if isinstance(data, dict) and isinstance(data.get("text"), str) else None
