"""What a client may send is decided in one order, and as little as possible is read before."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.core.echo import ECHO, World

from corsac.core.service import Refused
from corsac.core.service_registry import State

FAULTS = [
    (401, "UNAUTHENTICATED"),
    (403, "SCOPE_MISSING"),
    (503, "SERVICE_UNAVAILABLE"),
    (429, "RATE_LIMITED"),
    (406, "NOT_ACCEPTABLE"),
    (415, "CONTENT_ENCODING_UNSUPPORTED"),
    (415, "UNSUPPORTED_MEDIA_TYPE"),
    (413, "BODY_TOO_LARGE"),
    (422, "UNKNOWN_FIELD"),
    (400, "MALFORMED_JSON"),
]


@pytest.mark.parametrize("n_mended", range(len(FAULTS)))
async def test_of_many_faults_the_first_is_told_and_no_body_is_read_before_the_last(
    world: World, n_mended: int
) -> None:
    faults = [reason for _, reason in FAULTS[n_mended:]]
    headers = {
        "Authorization": {9: "", 10: "Bearer other"}.get(len(faults), "Bearer echo"),
        "Accept": "image/png" if "NOT_ACCEPTABLE" in faults else "*/*",
        "Content-Encoding": "gzip" if "CONTENT_ENCODING_UNSUPPORTED" in faults else "identity",
        "Content-Type": "text/plain" if "UNSUPPORTED_MEDIA_TYPE" in faults else "application/json",
        "Content-Length": "1001" if "BODY_TOO_LARGE" in faults else "1",
    }
    if "UNAUTHENTICATED" in faults:
        del headers["Authorization"]
    elif "SCOPE_MISSING" in faults:
        headers["Authorization"] = "Bearer other"
    if "RATE_LIMITED" in faults:
        for _ in range(2):
            assert (await world.post("/api/echo/rarely", {"text": "a"})).status_code == 200
    if "SERVICE_UNAVAILABLE" in faults:
        world.registry.move(world.registry.get("echo"), State.FAILED, Refused("No voice.", "Buy one."), "refused")
    n_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal n_read
        n_read += 1
        yield b"{"

    query = {"colour": "red"} if "UNKNOWN_FIELD" in faults else None
    answer = await world.client.post("/api/echo/rarely", params=query, headers=headers, content=body())
    world.refused(answer, *FAULTS[n_mended])
    assert n_read == (1 if len(faults) == 1 else 0)


async def test_a_refused_request_takes_nothing_from_the_limit(world: World) -> None:
    for _ in range(5):
        world.refused(
            await world.post("/api/echo/rarely", {"text": "a"}, headers={"Authorization": "Bearer other"}),
            403,
            "SCOPE_MISSING",
        )
    world.registry.move(world.registry.get("echo"), State.STOPPED)
    for _ in range(5):
        world.refused(await world.post("/api/echo/rarely", {"text": "a"}), 503, "SERVICE_UNAVAILABLE")
    world.registry.move(world.registry.get("echo"), State.READY)
    assert (await world.post("/api/echo/rarely", {"text": "a"})).headers["ratelimit"] == '"rarely";r=1;t=30'


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "BODY_REQUIRED"),
        (b"null", 422, "WRONG_TYPE"),
        (b"[]", 422, "WRONG_TYPE"),
        (b'"x"', 422, "WRONG_TYPE"),
        (b"{}", 422, "FIELD_REQUIRED"),
        (b'{"text": "a", "temprature": 1}', 422, "UNKNOWN_FIELD"),
        (b'{"text": "a", "loud": "true"}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "times": "5"}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "times": 1.5}', 422, "WRONG_TYPE"),
        (b'{"text": "a", "temperature": 3}', 422, "OUT_OF_RANGE"),
        (b'{"text": "a", "temperature": 1e999}', 400, "NON_FINITE_NUMBER"),
        (b'{"text": "a", "temperature": NaN}', 400, "NON_FINITE_NUMBER"),
        (rb'{"text": "\ud800"}', 400, "INVALID_UNICODE"),
        (rb'{"text": 5, "loud": "\ud800"}', 400, "INVALID_UNICODE"),
        (b'{"text": "a", "text": "b"}', 400, "DUPLICATE_KEY"),
        (b'{"text": "\xff"}', 400, "INVALID_UTF8"),
        (b'\xef\xbb\xbf{"text": "a"}', 400, "INVALID_ENCODING"),
        (b"[" * 100_000, 400, "JSON_TOO_DEEP"),
        (b'{"text": "a", "times": ' + b"9" * 5000 + b"}", 400, "NUMBER_TOO_LARGE"),
        (b'{"text":', 400, "MALFORMED_JSON"),
    ],
)
async def test_a_wrong_body_is_refused_with_its_reason_and_not_echoed(
    world: World, body: bytes, status: int, reason: str
) -> None:
    answer = await world.post("/api/echo/echo", content=body)
    problem = world.refused(answer, status, reason)
    assert world.manager.n_calls == 0
    if reason == "UNKNOWN_FIELD":
        assert "did you mean temperature" in problem["detail"]
        assert problem["errors"][0]["pointer"] == "/temprature"


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        (each, b'{"text": "a"}', "UNSUPPORTED_MEDIA_TYPE")
        for each in ("text/plain", "multipart/form-data; boundary=b", "")
    ]
    + [(each, b'{"text": "a"}', "UNSUPPORTED_MEDIA_TYPE") for each in ("application/xml", "application/x-json", "json")]
    + [("text/plain", b"", "UNSUPPORTED_MEDIA_TYPE")]
    + [("Application/JSON; charset=utf-8", b'{"text": "a"}', "")],
)
async def test_a_json_operation_takes_json_only(world: World, content_type: str, body: bytes, reason: str) -> None:
    headers = {**ECHO, **({"Content-Type": content_type} if content_type else {})}
    answer = await world.post("/api/echo/echo", content=body, headers=headers)
    if reason:
        world.refused(answer, 415, reason)
    assert answer.status_code == (415 if reason else 200)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        *(("/api/echo/sleep", each) for each in ("text/plain", "multipart/form-data; boundary=b", "")),
        *(("/api/echo/upload", each) for each in ("text/plain", "application/x-www-form-urlencoded", "")),
    ],
)
async def test_a_form_of_another_site_is_no_body_for_an_operation(world: World, path: str, content_type: str) -> None:
    headers = {**ECHO, **({"Content-Type": content_type} if content_type else {})}
    world.refused(await world.post(path, content=b"x=y", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(("path", "limit"), [("/api/echo/echo", 1 << 20), ("/api/echo/upload", 2000)])
@pytest.mark.parametrize("with_length", [True, False])
async def test_a_body_over_the_limit_is_refused_after_the_limit(
    world: World, path: str, limit: int, with_length: bool
) -> None:
    n_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_read
        yield b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' if "upload" in path else b'"'
        while n_read < 64 << 20:
            n_read += 500
            yield b" " * 500

    headers = {**ECHO, "Content-Type": "multipart/form-data; boundary=b" if "upload" in path else "application/json"}
    if with_length:
        headers["Content-Length"] = str(64 << 20)
    answer = await world.client.post(path, headers=headers, content=endless())
    world.refused(answer, 413, "BODY_TOO_LARGE")
    assert answer.headers["connection"] == "close"
    assert n_read <= (0 if with_length else limit + 64 * 1024)
    assert not list(world.uploads.iterdir())


async def test_an_upload_is_read_to_disk_and_gone_afterwards(world: World) -> None:
    answer = await world.client.post("/api/echo/upload", files={"a": b"x" * 900, "b": b""}, headers=ECHO)
    assert answer.json() == {"a": 900, "b": 0}
    assert not list(world.uploads.iterdir())


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("limit=200", 200, ""),
        ("limit=-1", 422, "OUT_OF_RANGE"),
        ("limit=1000000000", 422, "OUT_OF_RANGE"),
        ("limit=many", 422, "WRONG_TYPE"),
        ("limit=", 422, "WRONG_TYPE"),
        ("order=sideways", 422, "INVALID_CHOICE"),
        ("cursor=rubbish", 400, "INVALID_CURSOR"),
        ("limt=5", 422, "UNKNOWN_FIELD"),
        ("token=secret", 422, "UNKNOWN_FIELD"),
        ("=", 422, "UNKNOWN_FIELD"),
        ("&".join(f"a{n}=1" for n in range(2000)), 400, "TOO_MANY_FIELDS"),
    ],
)
async def test_a_query_is_as_strict_as_a_body(world: World, query: str, status: int, reason: str) -> None:
    answer = await world.client.get(f"/api/echo/echoes?{query}", headers=ECHO)
    if reason:
        problem = world.refused(answer, status, reason)
        assert "secret" not in answer.text
        assert query != "limt=5" or problem["errors"][0]["detail"] == "Did you mean limit?"
    assert answer.status_code == status


async def test_the_next_cursor_asks_for_the_next_page(world: World) -> None:
    first = (await world.client.get("/api/echo/echoes?limit=7", headers=ECHO)).json()
    second = await world.client.get("/api/echo/echoes", params={"cursor": first["next_cursor"]}, headers=ECHO)
    assert second.json()["items"] == ["7", "up"]


@pytest.mark.parametrize(
    "echo_id", ["A", "a.b", "a%00b", "%2e%2e%2fpasswd", "..%5c..", "a%2fb", "x" * 10_000, "%C3%A9", "a%0A"]
)
async def test_an_id_that_cannot_be_ours_is_refused(world: World, echo_id: str) -> None:
    world.refused(await world.client.get(f"/api/echo/echoes/{echo_id}", headers=ECHO), 422, "INVALID_ID")


@pytest.mark.parametrize("method", ["PUT", "PROPFIND", "__INIT__", "get", "OPTIONS"])
async def test_a_wrong_method_is_told_all_the_right_ones(world: World, method: str) -> None:
    answer = await world.client.send(_with_method(world.client, method, "/api/echo/echoes/a"))
    world.refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "DELETE, GET"


def _with_method(client: httpx.AsyncClient, method: str, path: str) -> httpx.Request:
    request = client.build_request("GET", path, headers=ECHO)
    request.method = method  # httpx would write it in capitals
    return request


@pytest.mark.parametrize(
    "path", ["/", "//api/echo/hello", "/api/echo/hello/", "/api/echo/hello.", "/api/echo/hello%20", "/API/echo/hello"]
)
async def test_a_path_that_is_nearly_one_of_ours_is_none(world: World, path: str) -> None:
    world.refused(
        await world.client.get(httpx.URL("http://localhost").copy_with(raw_path=path.encode())), 404, "NOT_FOUND"
    )
