"""What is wrong with a request before its route is known: its path and its deadline."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from corsac.core.call import Call
from corsac.core.exceptions import InvalidId, InvalidTimeout
from corsac.core.http.crash_guard import CALL

MAX_TIMEOUT_MS = 600_000
# An encoded slash, a backslash, a control character or a dot segment never stands in a path of ours.
UNSAFE_PATH = re.compile(r"[\x00-\x1f\x7f\\]|%2f|/\.{1,2}(?:/|$)", re.IGNORECASE)


class InputValidationMiddleware:
    """Refuses paths that try to be another path, and reads `X-Request-Timeout-Ms`.

    Args:
        app: The layers below.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        raw_path = scope.get("raw_path") or b""
        if UNSAFE_PATH.search(scope["path"]) or b"%2f" in raw_path.lower():
            raise InvalidId
        for name, value in scope["headers"]:
            if name == b"x-request-timeout-ms":
                call: Call = scope[CALL]
                call.deadline = call.monotonic() + milliseconds(value) / 1000
        await self.app(scope, receive, send)


def milliseconds(value: bytes) -> int:
    """The number in an `X-Request-Timeout-Ms` header, 1 to 600,000.

    Raises:
        InvalidTimeout: It is no such number.
    """
    if not value.isdigit() or len(value) > 6 or not 1 <= int(value) <= MAX_TIMEOUT_MS:
        raise InvalidTimeout("X-Request-Timeout-Ms takes a whole number from 1 to 600000.")
    return int(value)
