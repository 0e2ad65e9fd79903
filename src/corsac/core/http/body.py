"""The one parse of a JSON body: strict where the standard library is lenient."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fastapi import Request

from corsac.core.exceptions import (
    DuplicateKey,
    InvalidEncoding,
    InvalidRequest,
    InvalidUnicode,
    InvalidUtf8,
    JsonTooDeep,
    MalformedJson,
    NonFiniteNumber,
    NumberTooLarge,
)
from corsac.core.http.problem import BodyRefused

MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 308  # as many as the largest double has
BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DuplicateKey
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NonFiniteNumber
    return number


def _integer(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_INTEGER_DIGITS:
        raise NumberTooLarge
    return int(text)


def _refuse_constant(_name: str) -> NoReturn:
    raise NonFiniteNumber


_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_integer, parse_constant=_refuse_constant
).decode


def parse_json(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259), read strictly.

    Args:
        body: UTF-8 without a byte order mark.

    Returns:
        Dicts without duplicate keys, lists, strings without lone surrogates, finite numbers, booleans, None; nested
        at most 64 deep.

    Raises:
        InvalidRequest: One of its subclasses says what is wrong.
    """
    if body.startswith(BYTE_ORDER_MARKS) or b"\0" in body[:4]:  # JSON in UTF-16 or UTF-32 has NUL among its first bytes
        raise InvalidEncoding
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidUtf8(f"The body is not valid UTF-8 at byte {error.start}.") from None
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise JsonTooDeep from None
    # Both checks are rare enough to be worth a look at the bytes first.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise JsonTooDeep
    if b"\\u" in body and _has_lone_surrogate(value):
        raise InvalidUnicode
    return value


def _depth(value: Any) -> int:
    """Nesting of `value`, level by level so that no recursion limit is met."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


class StrictRequest(Request):
    """A request whose `json()` is the strict parse; FastAPI reads the body through it."""

    async def json(self) -> Any:
        """The body's value.

        Raises:
            BodyRefused: Carries the reason.
        """
        try:
            return parse_json(await self.body())
        except InvalidRequest as error:
            raise BodyRefused(error) from error
