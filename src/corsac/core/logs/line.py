"""One event, one line: as JSON, or for a terminal."""

from __future__ import annotations

import math
import re
import sys
import traceback
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson

from corsac.core.logs.levels import ROOT
from corsac.core.logs.redaction import SecretRedactor

MAX_TEXT_CHARS = 16_384
MAX_LINE_BYTES = 65_536
KEPT_CHARS = 2 * MAX_TEXT_CHARS
"""What a caller hands over of a longer text: more than is shown, so that redaction sees whole secrets."""
MAX_SECRET_CHARS = 4096
MAX_KEY_CHARS = 200
MAX_BYTES = 1024
MAX_ITEMS = 100
MAX_DEPTH = 8
MAX_FRAMES = 30
_COLOR = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
# Besides the control characters: line separators, and the marks that make text run backwards on a terminal.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_BARE = re.compile(r"[\w./:+@-]+")


def rfc3339(seconds: float) -> str:
    """A moment in UTC with milliseconds, for example `2026-05-12T10:30:00.123Z`.

    Args:
        seconds: Since the epoch.
    """
    whole = math.floor(seconds)
    return f"{_to_the_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=8)  # lines come many to a second
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def snapshot(value: object, depth: int = 0) -> Any:
    """What a value is now, in JSON's types; later changes to it do not show.

    Args:
        value: Anything. Long texts, large collections and bytes are cut.
        depth: How deep it is nested; below 8 levels only its text is taken.
    """
    if isinstance(value, str):
        return str(value[:KEPT_CHARS])
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        pairs = islice(value.items(), MAX_ITEMS)
        taken = {_text_of(key): snapshot(each, depth + 1) for key, each in pairs}
        return {**taken, "…": f"{len(value) - MAX_ITEMS} more"} if len(value) > MAX_ITEMS else taken
    if depth < MAX_DEPTH and isinstance(value, list | tuple | Set):
        listed = [snapshot(each, depth + 1) for each in islice(value, MAX_ITEMS)]
        return [*listed, f"… {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else listed
    return _text_of(value)


def _text_of(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        # Half a secret is not recognized, so it is all or nothing.
        few = len(value) <= MAX_BYTES
        return bytes(value).decode(errors="backslashreplace") if few else f"<{len(value)} bytes>"
    try:
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {value}"[:KEPT_CHARS]
        return (value.isoformat() if isinstance(value, date) else str(value))[:KEPT_CHARS]
    except Exception as error:  # noqa: BLE001 - anybody's __str__; a log call never fails, and the line says why
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def traceback_of(exc_info: object) -> traceback.TracebackException | None:
    """A frozen traceback that keeps no frame alive and never reads local variables.

    Args:
        exc_info: An exception, True for the one being handled, or `sys.exc_info()`'s triple.

    Returns:
        None where there is no exception.
    """
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif not isinstance(exc_info, tuple):
        exc_info = sys.exc_info() if exc_info else (None, None, None)
    kind, error, trace = exc_info
    if error is None:
        return None
    # Source lines are read from disk, so only when the line is written.
    return traceback.TracebackException(kind, error, trace, limit=-MAX_FRAMES, lookup_lines=False, compact=True)


class LineFormat:
    """Renders events as JSON lines without secrets, control characters or excess.

    Args:
        redactor: Knows the secrets.
    """

    def __init__(self, redactor: SecretRedactor) -> None:
        self._redactor = redactor

    def plain_line(self, event: dict[str, Any]) -> bytes | None:
        """The line of an event that needs nothing hidden, escaped or cut; None: it needs `json_line`.

        Args:
            event: As for `json_line`, its `time` in seconds since the epoch.
        """
        if "exception" in event:
            return None
        try:
            line = orjson.dumps({**event, "time": rfc3339(event["time"])})
        except TypeError:
            return None
        if len(line) >= KEPT_CHARS or not line.isascii() or b"\x7f" in line or self._redactor.suspects(line):
            return None
        return line + b"\n"

    def json_line(self, event: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """One line that ends in a newline and has no other, and the event as it stands in it.

        Args:
            event: Values of JSON's types; in `exception`, a traceback.
        """
        exception = event.get("exception")
        if isinstance(exception, traceback.TracebackException):
            event = {**event, "exception": "".join(exception.format()).rstrip()}
        try:
            line = orjson.dumps(event)
        except TypeError:  # Half a surrogate pair, or an integer of more than 64 bits.
            line = b""
        if not line or len(line) >= KEPT_CHARS or self._redactor.suspects(line):
            event = _bounded(self._redactor.redact_value(event, redact=self._redact))
            line = orjson.dumps(event)
        if len(line) > MAX_LINE_BYTES:
            event = {key: event[key] for key in ("time", "level", "service", "event") if key in event}
            event["truncated"] = f"{len(line)} bytes"
            line = orjson.dumps(event)
        if not line.isascii() or b"\x7f" in line:
            line = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()
        return line + b"\n", event

    def _redact(self, text: str) -> str:
        # Where the caller has cut a text, the first half of a secret may stand at its very end.
        return self._redactor.redact(text)[: -MAX_SECRET_CHARS if len(text) >= KEPT_CHARS else None]


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        shown = value if len(value) <= MAX_TEXT_CHARS else value[:MAX_TEXT_CHARS] + "…"
        return shown.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_bounded(key)[:MAX_KEY_CHARS]: _bounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_bounded(each) for each in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"<integer of {value.bit_length()} bits>"
    return value


def pretty_line(line: bytes, *, color: bool) -> bytes:
    """A JSON line for people. Tracebacks follow on indented lines; nothing else can begin a line or color one.

    Args:
        line: From `json_line`.
        color: Whether the terminal shows colors.
    """
    event = orjson.loads(line)
    time, level, service = event.pop("time", ""), event.pop("level", "info"), event.pop("service", ROOT)
    exception = event.pop("exception", None)
    head = f"{level:<8}"
    if color:
        head = f"\x1b[{_COLOR.get(level, '0')}m{head}\x1b[0m"
    words = [time[11:-1], head, _word(service), _printable(str(event.pop("event", "")))]
    words += [f"{_word(key)}={_word(value)}" for key, value in event.items()]
    text = " ".join(words) + "\n"
    if exception:
        text += "".join(f"    | {_printable(each)}\n" for each in str(exception).split("\n"))
    return text.encode()


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(
        lambda found: repr(found[0])[1:-1] if ord(found[0]) < 128 else f"\\u{ord(found[0]):04x}", text
    )


def _word(value: object) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return _printable(orjson.dumps(value).decode())
