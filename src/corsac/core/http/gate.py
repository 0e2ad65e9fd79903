"""What is decided about a request before the framework reads it: scope, availability, limits, deadline and size."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import (
    BodyTooLarge,
    ContentEncodingUnsupported,
    CorsacError,
    DeadlineExceeded,
    FieldError,
    ScopeMissing,
    TooManyFields,
    Unauthenticated,
    UnknownField,
    UnsupportedMediaType,
)
from corsac.core.http.authentication import CHALLENGE
from corsac.core.http.crash_guard import CALL
from corsac.core.http.negotiation import negotiate
from corsac.core.http.problem import BodyRefused
from corsac.core.identity import ADMIN, PUBLIC
from corsac.core.load.rate_limiter import Limit, RateLimiter, peer_key

MAX_QUERY_FIELDS = 100
# A page of another site can send these, and a body without any type, without asking first; so an operation without a
# body refuses them too.
FORM_TYPES = (b"", b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain")


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """The rules of one route.

    Args:
        service: Shown in logs and problems; empty for the server's own routes.
        operation: The route's name.
        scope: What the caller needs: `public`, `any`, the name of a service, `admin`.
        limit: Requests per caller; None: no limit of its own.
        timeout_s: Deadline where the client sets none; a client may ask for less or for up to 600 s.
        max_body_bytes: Size of the largest body.
        body: Whether the route takes JSON, a multipart upload, or nothing.
        produces: Media types of the success, the preferred one first.
        query: Names of the query parameters.
        unavailable: Returns the error to raise while the service does not run, else None.
    """

    service: str
    operation: str
    scope: str
    limit: Limit | None = None
    timeout_s: float = 60.0
    max_body_bytes: int = 1 << 20
    body: Literal["json", "multipart", "none"] = "none"
    produces: tuple[str, ...] = ("application/json",)
    query: frozenset[str] = frozenset()
    unavailable: Callable[[], CorsacError | None] = field(default=lambda: None)


class RouteGate:
    """Wraps the ASGI app of one route.

    Args:
        app: The route's own app.
        policy: Its rules.
        limiter: Shared by all routes and layers.
    """

    def __init__(self, app: ASGIApp, policy: GatePolicy, limiter: RateLimiter) -> None:
        self.app = app
        self.policy = policy
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope[CALL]
        policy = self.policy
        call.service, call.operation = policy.service, policy.operation
        self._check_scope(call)
        if error := policy.unavailable():
            raise error
        self._take_limit(call)
        receive = self._read_headers(scope, receive, call)
        if scope["query_string"]:
            self._check_query(scope["query_string"])
        now = call.monotonic()
        if call.deadline is None:
            call.deadline = now + policy.timeout_s
        try:
            async with asyncio.timeout(call.deadline - now) as timer:
                await self.app(scope, receive, send)
        except TimeoutError as error:
            if timer.expired():
                raise DeadlineExceeded from error
            raise

    def _check_scope(self, call: Call) -> None:
        policy = self.policy
        if policy.scope != PUBLIC:
            if call.caller is None:
                raise Unauthenticated(headers=CHALLENGE)
            if not call.caller.may(policy.scope):
                raise ScopeMissing(f"The key needs the scope {policy.scope}.")

    def _take_limit(self, call: Call) -> None:
        policy = self.policy
        if policy.limit is not None:
            caller = call.caller.key_id if call.caller else peer_key(call.peer)
            key = f"{policy.service}.{policy.operation}:{caller}"
            decision = self.limiter.require(policy.operation, key, policy.limit)
            call.headers += decision.headers(policy.operation)

    def _check_query(self, query_string: bytes) -> None:
        try:
            pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise TooManyFields(f"The query has more than {MAX_QUERY_FIELDS} parameters.") from None
        for name in sorted({name for name, _ in pairs} - self.policy.query):
            known = sorted(self.policy.query)
            near = difflib.get_close_matches(name, known, n=1)
            detail = f"Did you mean {near[0]}?" if near else _listing("query parameter", known)
            raise UnknownField(errors=[FieldError("query", UnknownField.reason, detail)])

    def _read_headers(self, scope: Scope, receive: Receive, call: Call) -> Receive:
        """Refuses what the headers already tell; returns `receive` with the size limit."""
        content_type = encoding = accept = b""
        length, chunked = 0, False
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.lower().partition(b";")[0].strip()
            elif name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"content-encoding":
                encoding = value
            elif name == b"accept":
                accept = accept + b"," + value if accept else value
        call.media_type = negotiate(accept.decode("latin-1"), self.policy.produces)
        if not length and not chunked and not content_type:
            return receive
        self._check_type(content_type, encoding, empty=not length and not chunked)
        limit = self.policy.max_body_bytes
        if length > limit:
            raise self._too_large()
        if not chunked:
            return receive  # the protocol never hands over more than Content-Length says
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise BodyRefused(self._too_large())
            return message

        return bounded

    def _check_type(self, content_type: bytes, encoding: bytes, *, empty: bool) -> None:
        if encoding not in (b"", b"identity"):
            raise ContentEncodingUnsupported
        expected = self.policy.body
        if expected == "json":
            if content_type != b"application/json" and not (empty and not content_type):
                raise UnsupportedMediaType("This operation takes application/json.")
        elif expected == "multipart":
            if content_type != b"multipart/form-data":
                raise UnsupportedMediaType("This operation takes multipart/form-data.")
        elif content_type in FORM_TYPES:
            raise UnsupportedMediaType("This operation takes no body.")

    def _too_large(self) -> BodyTooLarge:
        # The rest of the body is not read, so the connection cannot be used again.
        return BodyTooLarge(f"The body may have {self.policy.max_body_bytes} bytes.", headers={"Connection": "close"})


class SocketGate(RouteGate):
    """Wraps the ASGI app of one WebSocket: decides before the handshake, so a refusal is an HTTP answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope[CALL]
        policy = self.policy
        call.service, call.operation = policy.service, policy.operation
        self._check_scope(call)
        if error := policy.unavailable():
            raise error
        self._take_limit(call)
        if scope["query_string"]:
            self._check_query(scope["query_string"])
        await self.app(scope, receive, send)


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return f"This operation has no {what}s."
    return f"This operation has the {what}s {', '.join(names)}."


def scopes_of(services: Mapping[str, object]) -> list[str]:
    """The scopes that a key may have: one for each service, `any` and `admin`."""
    return sorted({*services, "any", ADMIN})
