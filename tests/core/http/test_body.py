"""A body is read as JSON has it, or refused with the reason; nothing in between."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from corsac.core.http.body import parse_json

DAMAGE = {
    "C01 cut": (b'{"prompt":', MalformedJson),
    "C02 NaN": (b'{"n": NaN}', NonFiniteNumber),
    "C02 Infinity": (b"[Infinity]", NonFiniteNumber),
    "C02 -Infinity": (b"-Infinity", NonFiniteNumber),
    "C02 1e999": (b'{"n": 1e999}', NonFiniteNumber),
    "C02 -1e999": (b"[-1e999]", NonFiniteNumber),
    "C03 high surrogate": (rb'"\ud800"', InvalidUnicode),
    "C03 low surrogate": (rb'{"n": {"m": ["\uDC00"]}}', InvalidUnicode),
    "C03 surrogates in the wrong order": (rb'["\udc00\ud800"]', InvalidUnicode),
    "C03 surrogate in a key": (rb'{"\ud83d": 1}', InvalidUnicode),
    "C03 surrogate before an escape": (rb'"\ud800\n"', InvalidUnicode),
    "C04 0xFF": (b'{"n": "\xff"}', InvalidUtf8),
    "C04 overlong slash": (b'"\xc0\xaf"', InvalidUtf8),
    "C04 cut sequence": (b'"\xe2\x82"', InvalidUtf8),
    "C04 surrogate in UTF-8": (b'"\xed\xa0\x80"', InvalidUtf8),
    "C04 past U+10FFFF": (b'"\xf4\x90\x80\x80"', InvalidUtf8),
    "C05 byte order mark": (b"\xef\xbb\xbf{}", InvalidEncoding),
    "C05 UTF-16 with a mark": ('{"n": 1}'.encode("utf-16"), InvalidEncoding),
    "C05 UTF-16 big endian": ('{"n": 1}'.encode("utf-16-be"), InvalidEncoding),
    "C05 UTF-16 little endian": ('{"n": 1}'.encode("utf-16-le"), InvalidEncoding),
    "C05 UTF-32": ('{"n": 1}'.encode("utf-32"), InvalidEncoding),
    "C06 duplicate": (b'{"prompt":"a","prompt":"b"}', DuplicateKey),
    "C06 duplicate by escape": (rb'{"a":1,"\u0061":1}', DuplicateKey),
    "C06 duplicate deep inside": (b'[{"n":{"a":1,"b":2,"a":1}}]', DuplicateKey),
    "C07 depth 65": (b"[" * 65 + b"]" * 65, JsonTooDeep),
    "C07 depth 65 of objects": (b'{"a":' * 65 + b"1" + b"}" * 65, JsonTooDeep),
    "C07 depth 900": (b"[" * 900 + b"]" * 900, JsonTooDeep),
    "C07 depth 100,000": (b"[" * 100_000, JsonTooDeep),
    "C08 5,000 digits": (b'{"n": ' + b"9" * 5000 + b"}", NumberTooLarge),
    "C08 309 digits": (b"-" + b"1" * 309, NumberTooLarge),
}

BROKEN = """
[1 true]|[1,]|[1,,2]|[,1]|["",]|["x"|[x|[1|[1,|[[]|["a",4,1,|]|[1]]|[1]x|[3[4]]|[:1]|["a":1]|[*]|[-]|[--1]|[+1]|[.5]
[5.]|[0.e1]|[1e]|[1e+]|[1.0e+]|[01]|[-01]|[0x1]|[1_000]|[2.e3]|[1+2]|[١]|[1 000]|[Inf]|[nan]|[+Inf]|[tru]|[True]
[nul]|[None]|["\\x00"]|["\\u12"]|["\\u00A"]|["\\uD834\\u"]|["\\a"]|["\\"]|["\\|"\\u123|["|'a'|['a']|[a]|{"a"}|{"a":}
{"a" 1}|{:1}|{1:1}|{a:1}|{'a':1}|{"a":1,}|{"a":1,,"b":2}|{,}|{"a":1}}|{"a":1 "b"}|{"a":1}//c|{"a":/*c*/1}|#c|{"a":1};
{"a"=1}|[1;2]|<null>|undefined|.|-|"
"""


@pytest.mark.parametrize(("body", "error"), DAMAGE.values(), ids=DAMAGE)
def test_every_damage_has_its_reason(body: bytes, error: type[InvalidRequest]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert type(caught.value) is error


@pytest.mark.parametrize("text", BROKEN.replace("\n", "|").strip("|").split("|"))
def test_a_broken_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedJson):
        parse_json(text.encode())


@pytest.mark.parametrize(
    "body", [b'"a\tb"', b'["\n"]', b"[\x0c1]", b"\xc2\xa0[]", b"[]\xe2\x80\xa8", b'"abcd\x00"', b" "]
)
def test_control_characters_and_foreign_white_space_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_json(body)


def test_the_place_of_a_fault_is_told_and_the_text_is_not() -> None:
    with pytest.raises(MalformedJson, match=r"line 2, column 3") as caught:
        parse_json(b"{\n  secret}")
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "[" * 64 + "]" * 64,
        "[" + "[]," * 100 + "{}]",
        '{"a": {"a": 1}, "b": [{"a": 2}]}',
        r'"😀 \\ud800 \u0000"',
        '"\u2028 \ufeff 😀"',
        "[-0, -0.0, 1E-999, 1.7976931348623157e308, 0e999]",
        "-" + "9" * 308,
        " \t\r\n null \n",
    ],
)
def test_what_is_valid_is_taken(text: str) -> None:
    assert parse_json(text.encode()) == json.loads(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_every_value_comes_back(value: object, escaped: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


PIECES = st.sampled_from(
    [*b"[]{},:", b'"', b"\\u", b"d800", b"1", b"e9", b"-", b"NaN", b"true", b"\xff", b"\xef\xbb\xbf", b"\0"]
)


@given(st.binary(max_size=60) | st.lists(PIECES.map(lambda p: p if isinstance(p, bytes) else bytes([p]))).map(b"".join))
@example(b"")
def test_any_bytes_are_read_as_by_the_standard_library_or_refused(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidRequest:
        return
    assert value == json.loads(body.decode("utf-8"))
