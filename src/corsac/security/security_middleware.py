"""Which hosts this server answers for and which web origins may use it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import HostNotAllowed, OriginNotAllowed
from corsac.core.http.crash_guard import CALL

HOST = re.compile(rb"(\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?)(?::([0-9]{1,5}))?", re.IGNORECASE)
ORIGIN = re.compile(rb"https?://(.{1,270})", re.IGNORECASE)
PROBES = frozenset({"/livez", "/readyz", "/startupz"})
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

RESPONSE_HEADERS: list[tuple[bytes, bytes]] = [(b"x-content-type-options", b"nosniff")]
"""Response headers of every answer."""
PAGE_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
        b" media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
]
"""Response headers of pages. No inline script runs on any page of ours, `/docs` included."""


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """Hosts that are answered for, and foreign origins that may use the API from a browser.

    Args:
        hosts: Lower-case host names and addresses without a port; IPv6 in brackets.
        cors_origins: Lower-case `scheme://host[:port]`.
    """

    hosts: frozenset[bytes]
    cors_origins: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[str], cors_origins: Iterable[str] = ()) -> OriginPolicy:
        """The loopback names and `hosts`."""
        names = frozenset(host.lower().encode() for host in (*LOOPBACK, *hosts))
        return cls(names, frozenset(origin.lower().rstrip("/").encode() for origin in cors_origins))

    def check_host(self, host: bytes) -> None:
        """Raises HostNotAllowed unless the Host header names one of ours; its port may be any."""
        match = HOST.fullmatch(host)
        if match is None or match[1].lower() not in self.hosts:
            raise HostNotAllowed

    def is_foreign(self, origin: bytes, host: bytes) -> bool:
        """Whether the Origin header is another one than the page's own.

        Raises:
            OriginNotAllowed: It is foreign and not on the list; `null` always is.
        """
        match = ORIGIN.fullmatch(origin)
        if match is not None and match[1].lower() == host.lower():
            return False
        if origin.lower() not in self.cors_origins:
            raise OriginNotAllowed
        return True


class SecurityMiddleware:
    """Refuses foreign hosts and origins before anything else looks at the request; answers CORS for listed origins.

    Args:
        app: The layers below.
        policy: Who is not foreign.
    """

    def __init__(self, app: ASGIApp, policy: OriginPolicy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        host = origin = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        self.policy.check_host(host)
        if origin and self.policy.is_foreign(origin, host):
            call: Call = scope[CALL]
            call.headers += [
                (b"access-control-allow-origin", origin),
                (
                    b"access-control-expose-headers",
                    b"x-request-id, location, preference-applied, ratelimit, ratelimit-policy, retry-after",
                ),
                (b"vary", b"origin"),
            ]
            if scope.get("method") == "OPTIONS":
                await self._preflight(send)
                return
        await self.app(scope, receive, send)

    async def _preflight(self, send: Send) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": 204,
            "headers": [
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
                (
                    b"access-control-allow-headers",
                    b"authorization, content-type, if-match, idempotency-key, last-event-id, prefer, x-request-id,"
                    b" x-request-timeout-ms, x-stream-granularity",
                ),
                (b"access-control-max-age", b"600"),
            ],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b""})
