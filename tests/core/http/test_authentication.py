"""A caller is known by its header or its cookie; what the browser sends by itself needs more than that."""

from __future__ import annotations

from typing import cast

import pytest
from starlette.types import Receive, Scope, Send
from tests.conftest import ClientOf

from corsac.core.call import Call
from corsac.core.exceptions import OriginNotAllowed, Unauthenticated
from corsac.core.http.authentication import AuthenticationLayer
from corsac.core.http.crash_guard import CALL
from corsac.core.identity import OWNER, Identity, Principal

ALICE = Principal("alice", "k1", frozenset({"tts"}))


class Doorman:
    """Knows one key, `k`, and one session, `s`."""

    def by_secret(self, secret: str) -> Principal:
        return self._known(secret == "k", ALICE)

    def by_session(self, secret: str) -> Principal:
        return self._known(secret == "s", OWNER)

    def _known(self, known: bool, principal: Principal) -> Principal:
        if not known:
            raise Unauthenticated
        return principal


DOORMAN = cast(Identity, Doorman())


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    caller = scope[CALL].caller
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": caller.id.encode() if caller else b"nobody"})


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", {}, "nobody"),
        ("POST", {"Authorization": "Bearer k"}, "alice"),
        ("POST", {"Authorization": "bearer  k "}, "alice"),
        ("POST", {"Authorization": "Bearer k", "Cookie": "corsac_session=s"}, "alice"),
        ("GET", {"Cookie": "corsac_session=s"}, "owner"),
        ("HEAD", {"Cookie": "corsac_session=s"}, ""),
        ("POST", {"Cookie": "corsac_session=s", "Origin": "http://localhost"}, "owner"),
        ("GET", {"Cookie": 'other={"a": 1}; corsac_session=s; x[y]=z'}, "owner"),
        ("GET", {"Cookie": "corsac_session=old"}, "nobody"),
        ("GET", {"Cookie": "session=s; s"}, "nobody"),
        ("GET", {"Cookie": ""}, "nobody"),
    ],
)
async def test_a_caller_is_recognized(client_of: ClientOf, method: str, headers: dict[str, str], expected: str) -> None:
    answer = await client_of(AuthenticationLayer(who, DOORMAN)).request(method, "/x", headers=headers)
    assert (answer.status_code, answer.text) == (200, expected)


@pytest.mark.parametrize("value", ["Bearer x", "Bearer ", "Bearer", "Basic azpr", "k", "Bearer é", "Bearer s"])
async def test_a_wrong_credential_is_a_401_with_a_challenge(client_of: ClientOf, value: str) -> None:
    headers = {"Authorization": value.encode()}
    answer = await client_of(AuthenticationLayer(who, DOORMAN)).get("/x", headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["reason"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "XYZ"])
async def test_a_cookie_alone_changes_nothing(client_of: ClientOf, method: str) -> None:
    answer = await client_of(AuthenticationLayer(who, DOORMAN)).request(
        method, "/x", headers={"Cookie": "corsac_session=s"}
    )
    assert (answer.status_code, answer.json()["reason"]) == (403, "ORIGIN_NOT_ALLOWED")


@pytest.mark.parametrize("with_origin", [True, False])
async def test_a_websocket_with_a_cookie_needs_an_origin(with_origin: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope[CALL].caller is OWNER

    headers = [(b"cookie", b"corsac_session=s"), *([(b"origin", b"http://localhost")] if with_origin else [])]
    scope = {"type": "websocket", "path": "/x", "headers": headers, CALL: Call("r1")}
    opening = AuthenticationLayer(app, DOORMAN)(scope, None, None)  # type: ignore[arg-type]
    if with_origin:
        await opening
    else:
        with pytest.raises(OriginNotAllowed):
            await opening


@pytest.mark.parametrize(("headers", "expected"), [({}, "owner"), ({"Authorization": "Bearer k"}, "alice")])
async def test_with_authentication_off_everybody_is_somebody(
    client_of: ClientOf, headers: dict[str, str], expected: str
) -> None:
    answer = await client_of(AuthenticationLayer(who, DOORMAN, everybody_is=OWNER)).get("/x", headers=headers)
    assert answer.text == expected
