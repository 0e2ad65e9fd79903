"""The limit per peer; limits per key and operation are on the routes, on the same limiter."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.http.crash_guard import CALL
from corsac.core.identity import ADMIN
from corsac.core.load.rate_limiter import Limit, RateLimiter, peer_key

ALWAYS_ADMITTED = frozenset({"/livez", "/readyz", "/startupz", "/api/health"})


class RateLimitingMiddleware:
    """Limits the requests of one peer, whatever they ask for. Health and the owner are always admitted.

    Args:
        app: The layers below.
        limiter: Shared with the routes.
        limit: Requests per peer; an IPv6 peer is its /64.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter, limit: Limit) -> None:
        self.app = app
        self.limiter = limiter
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] not in ALWAYS_ADMITTED:
            call: Call = scope[CALL]
            if call.caller is None or ADMIN not in call.caller.scopes:
                self.limiter.require("peer", "peer:" + peer_key(call.peer), self.limit)
        await self.app(scope, receive, send)
