"""Only hosts of ours are answered for, and only pages of ours, or of listed origins, may use them."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from tests.conftest import ClientOf

from corsac.core.call import Call
from corsac.core.exceptions import HostNotAllowed, OriginNotAllowed
from corsac.core.http.crash_guard import CALL
from corsac.security.security_middleware import PAGE_HEADERS, RESPONSE_HEADERS, OriginPolicy, SecurityMiddleware

OURS = "localhost localhost:8000 LOCALHOST:1 127.0.0.1:65535 [::1] [::1]:80 CORSAC.example:443 [2001:db8::1]:80"
FOREIGN = """
evil.example a/b?x= localhost/x localhost?x localhost#x user@localhost localhost@evil.example localhost,evil.example
localhost: localhost:port localhost:123456 localhost:80:80 localhost. .localhost xlocalhost sub.corsac.example *
127.0.0.1.evil.example evil.example:127.0.0.1 127.1 0.0.0.0 [::] ::1 [::1 [::1]x
"""
FOREIGN_ORIGINS = """
https://evil.example null NULL file:// * chrome-extension://abc localhost:8000 ftp://localhost:8000
http://localhost:8001 http://localhost http://127.0.0.1:8000 http://user@localhost:8000
http://localhost:8000.evil.example http://evil.example/localhost:8000
http://app.example https://app.example:444 https://app.example.evil.example
"""
POLICY = OriginPolicy.of(["Corsac.example", "[2001:DB8::1]"], ["https://App.example", "http://localhost:3000/"])


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def client(client_of: ClientOf) -> httpx.AsyncClient:
    return client_of(SecurityMiddleware(ok, POLICY))


@pytest.mark.parametrize("host", OURS.split())
async def test_a_host_of_ours_is_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/x", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", [*FOREIGN.split(), "", "localhost evil", "localhost\n", "localhost\0", "a" * 300])
async def test_a_foreign_or_malformed_host_is_refused(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get("/x", headers={"Host": host})
    assert (answer.status_code, answer.json()["reason"]) == (421, "HOST_NOT_ALLOWED")
    assert host not in answer.text or len(host) < 2


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("https://corsac.example", "corsac.example"),
        ("HTTP://[::1]:5", "[::1]:5"),
    ],
)
async def test_a_page_of_ours_may_ask(client: httpx.AsyncClient, method: str, origin: str, host: str) -> None:
    answer = await client.request(method, "/x", headers={"Host": host, "Origin": origin})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", [*FOREIGN_ORIGINS.split(), " "])
async def test_a_foreign_page_may_not(client: httpx.AsyncClient, method: str, origin: str) -> None:
    answer = await client.request(method, "/x", headers={"Host": "localhost:8000", "Origin": origin})
    assert (answer.status_code, answer.json()["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["https://app.example", "HTTPS://app.EXAMPLE", "http://localhost:3000"])
async def test_a_listed_page_may_ask_and_read(client: httpx.AsyncClient, origin: str) -> None:
    answer = await client.post("/x", headers={"Host": "localhost:8000", "Origin": origin})
    assert (answer.status_code, answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (
        200,
        origin,
        "origin",
    )
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_listed_pages_browser_may_ask_first_and_never_for_a_private_network(client: httpx.AsyncClient) -> None:
    headers = {
        "Host": "localhost:8000",
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = await client.options("/x", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert not {"access-control-allow-private-network", "access-control-allow-credentials"} & set(answer.headers)


async def test_without_a_list_no_page_of_another_origin_may(client_of: ClientOf) -> None:
    client = client_of(SecurityMiddleware(ok, OriginPolicy.of([])))
    assert (await client.get("/x", headers={"Origin": "https://app.example"})).status_code == 403


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
async def test_probes_are_answered_under_any_host(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"Host": "10.0.0.7:8000"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"host", b"localhost"), (b"origin", b"http://localhost")], None),
        ([(b"host", b"localhost")], None),
        ([(b"host", b"localhost"), (b"origin", b"https://evil.example")], OriginNotAllowed),
        ([(b"host", b"evil.example"), (b"origin", b"http://evil.example")], HostNotAllowed),
        ([], HostNotAllowed),
    ],
)
async def test_a_websocket_is_judged_before_it_is_accepted(
    headers: list[tuple[bytes, bytes]], error: type[Exception] | None
) -> None:
    opened = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        opened.append(scope)

    scope = {"type": "websocket", "path": "/x", "headers": headers, CALL: Call("r1")}
    opening = SecurityMiddleware(app, POLICY)(scope, None, None)  # type: ignore[arg-type]
    if error:
        with pytest.raises(error):
            await opening
    else:
        await opening
    assert bool(opened) is (error is None)


def test_no_page_of_ours_runs_inline_scripts_or_is_framed() -> None:
    policy = dict(PAGE_HEADERS)[b"content-security-policy"]
    assert b"script-src 'self';" in policy
    assert b"frame-ancestors 'none'" in policy
    assert b"unsafe" not in policy
    assert dict(RESPONSE_HEADERS)[b"x-content-type-options"] == b"nosniff"
