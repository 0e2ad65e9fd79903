import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import orjson
import pytest

from corsac.core.logs.redaction import SecretRedactor, base64_cores

SECRET = 'canary/7f3a "9+c2'


@pytest.fixture
def redactor() -> SecretRedactor:
    redactor = SecretRedactor()
    redactor.add(SECRET)
    return redactor


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"before {SECRET} after",
        repr({"a": SECRET}),
        orjson.dumps({"a": SECRET}).decode(),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        quote(quote(SECRET, safe=""), safe=""),
        "".join(f"%{ord(c):02x}" for c in SECRET),
        "/x?" + "".join(f"%{ord(c):02X}" for c in SECRET),
    ],
)
def test_a_known_secret_is_found_in_every_spelling(redactor: SecretRedactor, text: str) -> None:
    redacted = redactor.redact(text)
    assert "***" in redacted
    assert "canary" not in redacted
    assert "9+c2" not in redacted
    assert "%63%61" not in redacted


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_known_secret_is_found_in_base64_at_every_alignment(redactor, before, encode) -> None:
    encoded = encode(f"{before}{SECRET} and more".encode()).decode()
    assert redactor.redact(f"got {encoded} here") == "got *** here"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: ***"),
        ("sent bearer abcdefgh1234, then left", "sent bearer ***, then left"),
        ("key corsac_Ab3dEf6hIj9kLmNoPq works", "key *** works"),
        ("GET /x?a=1&token=s3cr3t&b=2", "GET /x?a=1&token=***&b=2"),
        ("GET /open?ticket=abc", "GET /open?ticket=***"),
        ("api_key='a b c', n=1", "api_key=***, n=1"),
        ('{"password": "a \\"quoted\\" one", "n": 1}', '{"password": ***, "n": 1}'),
        ("{b'cookie': b'session=1; b=2', b'a': b'b'}", "{b'cookie': ***, b'a': b'b'}"),
        ("[(b'authorization', b'Basic YTpi'), (b'a', b'b')]", "[(b'authorization', ***), (b'a', b'b')]"),
        ("https://alice:hunter2@example.org/x", "https://***@example.org/x"),
        ("GET /x?%74oken=s3cr3t", "GET /x?token=***"),
        (b64encode(b"corsac_Ab3dEf6hIj9kLmNoPq").decode(), "***"),
    ],
)
def test_what_looks_like_a_secret_is_found_unregistered(text: str, redacted: str) -> None:
    assert SecretRedactor().redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "n_tokens=512 and max_tokens: 100",
        "corsac_request_seconds_bucket",
        "/api/tts/synthesize%20now?voice=joe",
        "The password is missing.",
        "CORSAC_REQUESTS_PER_MINUTE must be positive.",
    ],
)
def test_ordinary_text_stays_as_it_is(redactor: SecretRedactor, text: str) -> None:
    assert redactor.redact(text) == text


@pytest.mark.parametrize("name", ["password", "X-Api-Key", "client_secret", "Set-Cookie", "accessToken", "ticket"])
def test_the_value_of_a_secret_name_is_replaced_whatever_it_is(name: str) -> None:
    value = {name: ["a", {"b": 1}], "n_tokens": 5, "has_password": True}
    assert SecretRedactor().redact_value(value) == {name: "***", "n_tokens": 5, "has_password": True}


def test_header_pairs_are_redacted_by_their_name() -> None:
    headers = [["authorization", "anything"], ["accept", "text/html"]]
    assert SecretRedactor().redact_value(headers) == [["authorization", "***"], ["accept", "text/html"]]


def test_secrets_in_keys_and_nested_values_are_replaced(redactor: SecretRedactor) -> None:
    redacted = redactor.redact_value({SECRET: [{"deep": f"x{SECRET}x"}, 1.5, None]})
    assert redacted == {"***": [{"deep": "x***x"}, 1.5, None]}


def test_most_lines_are_not_even_suspected(redactor: SecretRedactor) -> None:
    assert not redactor.suspects(b'{"event":"request","path":"/api/tts/voices","request_id":"8f14e45fceea167a"}')
    assert redactor.suspects(orjson.dumps({"a": f"x{SECRET}x"}))
    assert redactor.suspects(b64encode(b"Basic:corsac_Ab3dEf6hIj9kLmNoPq"))


def test_a_short_secret_is_left_alone() -> None:
    redactor = SecretRedactor()
    redactor.add("abc")
    assert redactor.redact("abcdef") == "abcdef"


def test_the_newest_secrets_are_known_when_there_are_too_many() -> None:
    redactor = SecretRedactor()
    for number in range(300):
        redactor.add(f"canary-{number:04d}-x")
    assert redactor.redact("canary-0299-x canary-0000-x") == "*** canary-0000-x"


@pytest.mark.parametrize("run", ["a" * 200_000, "a%" * 100_000, "token" + " " * 200_000, "://a" * 50_000, '"' * 99_999])
def test_hostile_text_takes_linear_time(redactor: SecretRedactor, run: str) -> None:
    began = time.process_time()
    redactor.redact(run + "% token secret")
    assert time.process_time() - began < 2.0


def test_base64_cores_stand_in_every_encoding_around_them() -> None:
    for before in range(6):
        encoded = b64encode(b"x" * before + b"secret" + b"yz").decode()
        assert any(core in encoded for core in base64_cores(b"secret"))
