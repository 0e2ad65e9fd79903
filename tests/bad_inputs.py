"""The tables of bad inputs: what is sent, and the clear answer that it gets."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.bad_audio import INVALID, NOT_AUDIO, OVERSIZED, TOO_LONG, flac, mp3, opus
from tests.server import JSON, SIGNED, Answer, Server, read_answer, request

ECHO, UPLOAD = "/api/workshop/echo", "/api/workshop/upload"
TRANSCRIBE, VALIDATE = "/api/tts/transcribe", "/api/tts/validate-audio"
SPEAK, AUDIO, VOICES = "/api/tts/synthesize", "/api/tts/audio", "/api/tts/voices"
CONFIG = "/api/workshop/config"
MARKER = "c4n4ry"
"""In the bodies and header fields of the rows; comes back in no answer and stands in no log."""
PATH_MARKER = "p4th"
"""The same for paths, which are logged."""
SECRET = "hunter2-of-the-workshop"
MIB = 1 << 20

Ask = Callable[[Server], Answer]


def row(name: str, ask: bytes | Ask, status: int, reason: str, says: str = "", header: str = "") -> Any:
    """A line of the table.

    Args:
        name: Begins with the row's id.
        ask: The bytes to send, or a function that gets the answer.
        status: HTTP status of the answer.
        reason: Its reason.
        says: Words of its detail or of one of its places.
        header: Names of response headers that it carries.
    """
    return pytest.param(ask, status, reason, says, header, id=name)


def echo(body: bytes, *fields: str, media_type: str = JSON) -> bytes:
    """A JSON body to the workshop's echo."""
    return request("POST", ECHO, SIGNED, media_type, f"X-Marker: {MARKER}", *fields, body=body)


def speak(body: bytes) -> Ask:
    """A JSON body to speech synthesis, by a key of its own: sixty a minute is what one may send."""
    return lambda server: server.ask("POST", SPEAK, body, key=server.create_key("fresh", "tts"))


def got(target: str, *fields: str, method: str = "GET", host: str = "localhost") -> bytes:
    """A request of the owner's without a body."""
    return request(method, target, SIGNED, f"X-Marker: {MARKER}", *fields, host=host)


def unsigned(target: str, *fields: str) -> bytes:
    """A request without our token."""
    return request("GET", target, f"X-Marker: {MARKER}", *fields)


def patched(values: str, query: str = "", *fields: str) -> bytes:
    """A change of the workshop's configuration."""
    return request("PATCH", CONFIG + query, SIGNED, JSON, *fields, body=b'{"values": %s}' % values.encode())


def uploaded(body: bytes, media_type: str = "multipart/form-data; boundary=b") -> bytes:
    """A form to the workshop's upload."""
    return request("POST", UPLOAD, SIGNED, f"Content-Type: {media_type}", body=body)


def sounded(content: bytes, name: str = "c4n4ry", media_type: str = "audio/mpeg", path: str = TRANSCRIBE) -> Ask:
    """An audio file to speech, by a key of its own: thirty a minute is what one may send."""
    body = part(f'; name="file"; filename="{name}"\r\nContent-Type: {media_type}', content) + MULTIPART_END

    def ask(server: Server) -> Answer:
        signed = f"Authorization: Bearer {server.create_key('fresh', 'tts')}"
        return server.send(request("POST", path, signed, "Content-Type: multipart/form-data; boundary=b", body=body))

    return ask


def part(disposition: str, content: bytes = b"c4n4ry") -> bytes:
    """One part of a form."""
    return b"--b\r\nContent-Disposition: form-data%s\r\n\r\n%s\r\n" % (disposition.encode(), content)


def nested(depth: int) -> bytes:
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"


def chunked_just_over_the_limit(server: Server) -> Answer:
    """Sends the limit and 64 KiB of an endless body and no more: that much must be enough for the answer."""
    head = echo(b"", "Transfer-Encoding: chunked")
    chunk = b"10000\r\n%s\r\n" % (b"a" * 65_536)
    began = time.monotonic()
    with server.connect(head + chunk * 17) as client:
        return read_answer(client, began)


def eleventh_in_a_minute(server: Server) -> Answer:
    for _ in range(10):
        assert server.ask("GET", "/api/workshop/few").status == 200
    return server.ask("GET", "/api/workshop/few")


def cursor_tampered_with(server: Server) -> Answer:
    cursor = server.ask("GET", f"{VOICES}?limit=1").json["next_cursor"]
    return server.ask("GET", f"{VOICES}?cursor=A{cursor[1:]}B")


def update_of_a_version_that_is_gone(server: Server) -> Answer:
    etag = server.ask("GET", CONFIG).headers["etag"]
    assert server.ask("PATCH", CONFIG, {"values": {"benches": 4}}, headers={"If-Match": etag}).status == 200
    return server.ask("PATCH", CONFIG, {"values": {"benches": 5}}, headers={"If-Match": etag})


MULTIPART_END = b"--b--\r\n"
EVIL = "https://evil.example"
CUT_LENGTH = ("Content-Length: 67108864",)
GZIP_BOMB = gzip.compress(bytes(MIB)) * 1000
MANY_FIELDS = "&".join(f"f{i}=1" for i in range(1_000_000)).encode()
MANY_PARTS = b"".join(part(f'; name="f{i}"') for i in range(1001)) + MULTIPART_END

CORE = [
    row("C01-cut-object", echo(b'{"prompt": "c4n4ry", "count":'), 400, "MALFORMED_JSON", "line 1, column 30"),
    row("C01-second-line", echo(b'{"prompt":\n c4n4ry}'), 400, "MALFORMED_JSON", "line 2, column 2"),
    row("C02-nan", echo(b'{"temperature": NaN}'), 400, "NON_FINITE_NUMBER"),
    row("C02-infinity", echo(b'{"temperature": Infinity}'), 400, "NON_FINITE_NUMBER"),
    row("C02-minus-infinity", echo(b'{"temperature": -Infinity}'), 400, "NON_FINITE_NUMBER"),
    row("C02-1e999", echo(b'{"temperature": 1e999}'), 400, "NON_FINITE_NUMBER"),
    row("C03-lone-surrogate", echo(rb'{"prompt": "c4n4ry \ud800"}'), 400, "INVALID_UNICODE"),
    row("C03-in-a-wrong-type", echo(rb'{"count": "c4n4ry \udfff"}'), 400, "INVALID_UNICODE"),
    row("C03-in-a-key", echo(rb'{"c4n4ry \ud800": 1}'), 400, "INVALID_UNICODE"),
    row("C04-byte-ff", echo(b'{"prompt": "c4n4ry \xff"}'), 400, "INVALID_UTF8", "byte 19"),
    row("C04-overlong", echo(b'{"prompt": "c4n4ry \xc0\xaf"}'), 400, "INVALID_UTF8"),
    row("C05-utf-16", echo('{"prompt": "c4n4ry"}'.encode("utf-16-le")), 400, "INVALID_ENCODING"),
    row("C05-utf-16-with-mark", echo('{"prompt": "c4n4ry"}'.encode("utf-16")), 400, "INVALID_ENCODING"),
    row("C05-utf-8-with-mark", echo(b'\xef\xbb\xbf{"prompt": "c4n4ry"}'), 400, "INVALID_ENCODING"),
    row("C06-duplicate-key", echo(b'{"prompt": "a", "prompt": "c4n4ry"}'), 400, "DUPLICATE_KEY"),
    row("C07-depth-100000", echo(b"[" * 100_000), 400, "JSON_TOO_DEEP"),
    row("C07-depth-65", echo(nested(64)), 400, "JSON_TOO_DEEP"),
    row("C07-depth-64-is-read", echo(nested(63)), 422, "WRONG_TYPE"),
    row("C08-5000-digits", echo(b'{"count": %s}' % (b"7" * 5000)), 400, "NUMBER_TOO_LARGE"),
    row("C09-unknown-field", echo(b'{"temprature": 1}'), 422, "UNKNOWN_FIELD", "did you mean temperature"),
    row("C10-string-for-bool", echo(b'{"loud": "true"}'), 422, "WRONG_TYPE", "true or false"),
    row("C10-string-for-int", echo(b'{"count": "5"}'), 422, "WRONG_TYPE", "whole number"),
    row("C11-no-body", got(ECHO, method="POST"), 422, "BODY_REQUIRED"),
    row("C11-empty-json", got(ECHO, JSON, "Content-Length: 0", method="POST"), 422, "BODY_REQUIRED"),
    row("C11-null", echo(b"null"), 422, "WRONG_TYPE"),
    row("C11-array", echo(b"[]"), 422, "WRONG_TYPE"),
    row("C11-string", echo(b'"c4n4ry"'), 422, "WRONG_TYPE"),
    *(
        row(f"C12-{name}", echo(b'{"prompt": "c4n4ry"}', media_type=field), 415, "UNSUPPORTED_MEDIA_TYPE")
        for name, field in [
            ("text", "Content-Type: text/plain"),
            ("multipart", "Content-Type: multipart/form-data; boundary=b"),
            ("urlencoded", "Content-Type: application/x-www-form-urlencoded"),
            ("xml", "Content-Type: application/xml"),
            ("none", "X-Type: none"),
        ]
    ),
    row("C13-64-mib-announced", echo(b"a" * 1024, *CUT_LENGTH), 413, "BODY_TOO_LARGE", "1048576 bytes"),
    row("C13-chunked", chunked_just_over_the_limit, 413, "BODY_TOO_LARGE", "1048576 bytes"),
    row("C14-gzip-bomb", echo(GZIP_BOMB, "Content-Encoding: gzip"), 415, "CONTENT_ENCODING_UNSUPPORTED"),
    row("C16-header-of-70-kib", got("/livez", "X-Long: " + MARKER * 12_000), 431, "HEADERS_TOO_LARGE"),
    row("C16-500-headers", got("/livez", *["X: c4n4ry"] * 500), 431, "HEADERS_TOO_LARGE"),
    row("C17-evil-host", got(VOICES, host="c4n4ry.example"), 421, "HOST_NOT_ALLOWED"),
    row("C17-host-with-a-path", got(VOICES, host="c4n4ry/b?x="), 421, "HOST_NOT_ALLOWED"),
    row("C17-two-hosts", got(VOICES, "Host: c4n4ry.example"), 400, "INVALID_REQUEST"),
    row("C17-no-host", got(VOICES, host=""), 400, "INVALID_REQUEST"),
    row("C18-evil-origin", echo(b"{}", f"Origin: {EVIL}"), 403, "ORIGIN_NOT_ALLOWED"),
    row("C18-null-origin", echo(b"{}", "Origin: null"), 403, "ORIGIN_NOT_ALLOWED"),
    row("C19-no-token", unsigned(VOICES), 401, "UNAUTHENTICATED", header="www-authenticate"),
    row("C19-wrong-token", unsigned(VOICES, "Authorization: Bearer c4n4ry"), 401, "UNAUTHENTICATED",
        header="www-authenticate"),
    row("C19-basic", unsigned(VOICES, "Authorization: Basic c4n4ry"), 401, "UNAUTHENTICATED",
        header="www-authenticate"),
    row("C19-token-in-query", unsigned(f"{VOICES}?token=@TOKEN@"), 401, "UNAUTHENTICATED",
        header="www-authenticate"),
    row("C21-unknown-path", got("/api/p4th"), 404, "NOT_FOUND"),
    row("C21-dunder-path", got("/__INIT__"), 404, "NOT_FOUND"),
    row("C21-wrong-verb", got(SPEAK), 405, "METHOD_NOT_ALLOWED", header="allow"),
    row("C21-propfind", got(VOICES, method="PROPFIND"), 405, "METHOD_NOT_ALLOWED", header="allow"),
    row("C21-invented-verb", got(VOICES, method="__INIT__"), 400, "INVALID_REQUEST"),
    row("C22-image-wanted", got(VOICES, "Accept: image/png"), 406, "NOT_ACCEPTABLE", "application/json"),
    row("C23-dots", got(f"{AUDIO}/../../etc/p4th"), 422, "INVALID_ID"),
    row("C23-encoded-dots", got(f"{AUDIO}/%2e%2e%2fp4th"), 422, "INVALID_ID"),
    row("C23-backslashes", got(f"{AUDIO}/..\\..\\p4th"), 422, "INVALID_ID"),
    row("C23-nul", got(f"{AUDIO}/p4th%00"), 422, "INVALID_ID"),
    row("C23-10-kb", got(f"{AUDIO}/{'p4th' * 2500}"), 422, "INVALID_ID"),
    row("C24-cr", got(VOICES, "X-A: c4n4ry\rX-B: 1"), 400, "INVALID_REQUEST"),
    row("C24-lf", got(VOICES, "X-A: c4n4ry\n forged"), 400, "INVALID_REQUEST"),
    row("C24-esc", got(VOICES, "X-A: c4n4ry\x1b[31m"), 400, "INVALID_REQUEST"),
    row("C24-crlf-in-the-path", got("/api/workshop/items/p4th%0d%0aforged"), 422, "INVALID_ID"),
    row("C24-esc-in-the-path", got("/api/workshop/items/p4th%1b%5b31m"), 422, "INVALID_ID"),
    row("C28-eleventh-in-a-minute", eleventh_in_a_minute, 429, "RATE_LIMITED", header="retry-after ratelimit"),
    *(
        row(f"C29-{value}", got(VOICES, f"X-Request-Timeout-Ms: {value}"), 400, "INVALID_TIMEOUT")
        for value in ("-1", "abc", "1000000000000", "0", "1.5")
    ),
    row("C30-limit-below", got(f"{VOICES}?limit=-1"), 422, "OUT_OF_RANGE", "at least 1"),
    row("C30-limit-above", got(f"{VOICES}?limit=1000000000"), 422, "OUT_OF_RANGE", "at most 200"),
    row("C30-cursor-made-up", got(f"{VOICES}?cursor=c4n4ry"), 400, "INVALID_CURSOR"),
    row("C30-cursor-tampered", cursor_tampered_with, 400, "INVALID_CURSOR"),
    row("C33-two-lengths", echo(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400,
        "INVALID_REQUEST", header="connection"),
    row("C33-blank-before-colon", echo(b"0\r\n\r\n", "Transfer-Encoding : chunked"), 400, "INVALID_REQUEST",
        header="connection"),
    row("C33-bad-chunk-end", echo(b"3\r\nc4n4ry\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 400,
        "INVALID_REQUEST", header="connection"),
    row("C34-canonical", unsigned("/api/keys"), 401, "UNAUTHENTICATED"),
    row("C34-encoded-letter", unsigned("/%61pi/keys"), 401, "UNAUTHENTICATED"),
    row("C34-two-slashes", unsigned("//api/keys"), 404, "NOT_FOUND"),
    row("C34-dot-segment", unsigned("/./api/keys"), 422, "INVALID_ID"),
    row("C34-trailing-slash", unsigned("/api/keys/"), 404, "NOT_FOUND"),
    row("C34-trailing-dot", unsigned("/api/keys."), 404, "NOT_FOUND"),
    row("C34-trailing-blank", unsigned("/api/keys%20"), 404, "NOT_FOUND"),
    row("C35-query-of-101-fields", got(VOICES + "?" + "&".join(["a=1"] * 101)), 400, "TOO_MANY_FIELDS"),
    row("C35-million-urlencoded-fields", uploaded(MANY_FIELDS, "application/x-www-form-urlencoded"), 415,
        "UNSUPPORTED_MEDIA_TYPE"),
    row("C35-1001-parts", uploaded(MANY_PARTS), 400, "TOO_MANY_FIELDS", "1000"),
    row("C35-part-without-name", uploaded(part("") + MULTIPART_END), 400, "MULTIPART_INVALID", "name"),
    row("C35-file-then-a-nameless-part", uploaded(part('; name="a"; filename="a"') + part("") + MULTIPART_END),
        400, "MULTIPART_INVALID"),
    row("C35-no-end", uploaded(part('; name="a"; filename="p4th"')), 400, "MULTIPART_INVALID", "closing"),
]  # fmt: skip

CONFIGURATION = [
    row("K01-stale-if-match", update_of_a_version_that_is_gone, 412, "CONFIG_VERSION_CONFLICT"),
    row("K02-out-of-range", patched('{"benches": 11}'), 422, "OUT_OF_RANGE", "/values/benches"),
    row("K02-unknown-key", patched('{"bench": 1}'), 422, "UNKNOWN_FIELD", "did you mean benches"),
    row("K02-wrong-type", patched('{"benches": "c4n4ry"}'), 422, "WRONG_TYPE", "/values/benches"),
    row("K03-locked-out", patched('{"doors": []}'), 409, "UNSAFE_CONFIG", "Without a door"),
    row("K03-forced-without-a-reason", patched('{"doors": []}', "?force=true"), 409, "UNSAFE_CONFIG"),
    row("K05-unknown-version", got(f"{CONFIG}/rollback/999", method="POST"), 404, "CONFIG_VERSION_NOT_FOUND"),
    row("K07-unknown-service", got("/api/registry/p4th"), 404, "SERVICE_NOT_FOUND"),
    row("K07-unknown-service-started", got("/api/registry/p4th/start", method="POST"), 404,
        "SERVICE_NOT_FOUND"),
    row("K08-needed-service", got("/api/registry/tts/stop", method="POST"), 409, "HAS_DEPENDENTS",
        "needed by workshop"),
    row("K08-needed-engine", got("/api/registry/speech:espeak/stop", method="POST"), 409, "HAS_DEPENDENTS",
        "needed by tts"),
    *(
        row(f"K11-{name}", request("PUT", "/api/admin/logs/levels", SIGNED, JSON, body=body), 422, reason)
        for name, body, reason in [
            ("level-loud", b'{"service": "root", "level": "LOUD"}', "INVALID_CHOICE"),
            ("path-as-service", b'{"service": "/etc/c4n4ry", "level": "info"}', "INVALID"),
            ("path", b'{"service": "root", "level": "info", "path": "/etc/c4n4ry"}', "UNKNOWN_FIELD"),
        ]
    ),
]  # fmt: skip

SPEECH = [
    row("T01-empty", speak(b'{"text": ""}'), 422, "TEXT_NOT_SPEAKABLE"),
    row("T01-emoji", speak('{"text": "🙂🎉"}'.encode()), 422, "TEXT_NOT_SPEAKABLE"),
    row("T01-punctuation", speak(b'{"text": "?! ..."}'), 422, "TEXT_NOT_SPEAKABLE"),
    row("T02-1-mb", speak(b'{"text": "%s"}' % (b"c4n4ry " * 142_857)), 422, "TEXT_TOO_LONG", "takes 5000"),
    row("T03-voice", speak(b'{"text": "a", "voice": "c4n4ry"}'), 422, "VOICE_UNKNOWN"),
    row("T03-near-voice", speak(b'{"text": "a", "voice": "en-uss"}'), 422, "VOICE_UNKNOWN", "en-us"),
    row("T03-language", speak(b'{"text": "a", "language": "xx"}'), 422, "LANGUAGE_NOT_SPOKEN", " de, "),
    row("T03-engine", speak(b'{"text": "a", "engine": "c4n4ry"}'), 422, "ENGINE_UNKNOWN", "espeak"),
    row("T03-speed-0", speak(b'{"text": "a", "speed": 0}'), 422, "OUT_OF_RANGE", "at least 0.5"),
    row("T03-speed-100", speak(b'{"text": "a", "speed": 100}'), 422, "OUT_OF_RANGE", "at most 2"),
    row("T03-speed-nan", speak(b'{"text": "a", "speed": NaN}'), 400, "NON_FINITE_NUMBER"),
    row("T04-speak", speak(b'{"text": "<speak>c4n4ry</speak>"}'), 422, "SSML_REJECTED"),
    row("T04-break", speak(b'{"text": "a <break time=\'1s\'/> c4n4ry"}'), 422, "SSML_REJECTED"),
    row("T04-entity", speak(b'{"text": "<!ENTITY c4n4ry SYSTEM \'file:///etc/passwd\'>"}'), 422, "SSML_REJECTED"),
    row("T04-external-dtd", speak(b'{"text": "<!DOCTYPE speak SYSTEM \'http://c4n4ry/x.dtd\'> a"}'), 422,
        "SSML_REJECTED"),
    row("T04-audio", speak(b'{"text": "<audio src=\'file:///etc/passwd\'> c4n4ry"}'), 422, "SSML_REJECTED"),
    row("T05-command", speak(b'{"text": "a", "format": "mp3;rm -rf c4n4ry"}'), 422, "INVALID_FORMAT", "'mp3'"),
    row("T05-path", speak(b'{"text": "a", "format": "../c4n4ry.wav"}'), 422, "INVALID_FORMAT", "'wav'"),
]  # fmt: skip

ANY_TYPE = "application/octet-stream"
UPLOADS = [
    *(
        row(name, sounded(content, media_type=ANY_TYPE), 422, "AUDIO_INVALID", says)
        for name, (content, says) in INVALID.items()
    ),
    row("T07-flac-named-mp3", sounded(flac(), "c4n4ry.mp3", ANY_TYPE), 415, "AUDIO_TYPE_MISMATCH", "content is flac"),
    row("T07-mp3-typed-flac", sounded(mp3(), "c4n4ry", "audio/flac"), 415, "AUDIO_TYPE_MISMATCH", "content is mp3"),
    row("T07-opus-named-wav", sounded(opus(), "c4n4ry.wav", ANY_TYPE), 415, "AUDIO_TYPE_MISMATCH", "content is opus"),
    *(
        row(name, sounded(content, media_type=ANY_TYPE), 413, "AUDIO_TOO_LONG", "600 s are taken")
        for name, content in TOO_LONG.items()
    ),
    *(
        row(name, sounded(content, "c4n4ry.mp3"), 415, "AUDIO_TYPE_MISMATCH", "none of")
        for name, content in NOT_AUDIO.items()
    ),
    *(
        row(name, sounded(content, media_type=ANY_TYPE, path=VALIDATE), 413, "METADATA_TOO_LARGE", "16 MiB")
        for name, content in OVERSIZED.items()
    ),
    row("T11-64-mib-and-more", sounded(bytes(65 * MIB)), 413, "BODY_TOO_LARGE"),
]
