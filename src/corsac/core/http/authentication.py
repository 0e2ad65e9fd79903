"""Recognizes the caller; what the caller may do is decided at the route."""

from __future__ import annotations

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import OriginNotAllowed, Unauthenticated
from corsac.core.http.crash_guard import CALL
from corsac.core.identity import Identity, Principal

SESSION_COOKIE = "corsac_session"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="corsac"'}
SAFE_METHODS = frozenset({"GET", "HEAD"})


class AuthenticationLayer:
    """Puts the caller into the call: by bearer token, by API key, or by a browser's session cookie.

    Args:
        app: The layers below.
        identity: Knows all credentials.
        everybody_is: Whom a request without a credential is taken for, where authentication is switched off.
    """

    def __init__(self, app: ASGIApp, identity: Identity, everybody_is: Principal | None = None) -> None:
        self.app = app
        self.identity = identity
        self.everybody_is = everybody_is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            call: Call = scope[CALL]
            try:
                call.caller = self._caller(scope) or self.everybody_is
            except Unauthenticated as error:
                error.headers |= CHALLENGE
                raise
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Principal | None:
        cookie = origin = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, credential = value.decode("latin-1").partition(" ")
                if scheme.lower() != "bearer":
                    raise Unauthenticated("The Authorization header must start with Bearer.")
                return self.identity.by_secret(credential.strip())
            if name == b"cookie":
                cookie = value
            elif name == b"origin":
                origin = value
        # Not the standard library's parser: it drops all cookies for one that another program on localhost made up.
        session = cookie_parser(cookie.decode("latin-1")).get(SESSION_COOKIE)
        if session is None:
            return None
        # The browser sends the cookie by itself, so an unsafe request must also show that a page of ours sent it;
        # the security layer has compared the Origin with the Host already.
        if not origin and scope.get("method", "GET") not in SAFE_METHODS | {None}:
            raise OriginNotAllowed("A request with the session cookie needs an Origin header.")
        if not origin and scope["type"] == "websocket":
            raise OriginNotAllowed("A WebSocket with the session cookie needs an Origin header.")
        try:
            return self.identity.by_session(session)
        except Unauthenticated:
            return None  # the browser cannot help sending an old cookie, also to the page that renews it
