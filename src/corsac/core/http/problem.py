"""The one wire format of every answer of 400 and above: RFC 9457, `application/problem+json`."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from corsac.core.error_handler import general_class
from corsac.core.exceptions import (
    CorsacError,
    InternalError,
    MethodNotAllowed,
)

MEDIA_TYPE = "application/problem+json"


class BodyRefused(HTTPException):
    """Carries one of our errors through FastAPI, which turns any other exception met in a body into a bare 400."""

    def __init__(self, error: CorsacError) -> None:
        super().__init__(error.status, error.detail)
        self.error = error


def from_framework(error: Exception) -> CorsacError | None:
    """What the framework raises in our words.

    Returns:
        Our error, or None where the exception is not the framework's.
    """
    if isinstance(error, BodyRefused):
        return error.error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed(f"This path takes {allow}.", headers={"Allow": allow})
        return general_class(error.status_code)()
    return None


def problem_document(error: CorsacError, request_id: str, service: str = "", operation: str = "") -> dict[str, Any]:
    """The members of the problem document of one failed request.

    Args:
        error: What went wrong.
        request_id: Finds the request's line in the log.
        service: Name of the service, empty outside one.
        operation: Name of the operation, empty before a route is found.
    """
    reason = error.reason or InternalError.reason
    return {
        "type": f"/docs/errors/{reason}",
        "title": error.title(),
        "status": error.status,
        "detail": error.detail,
        "instance": f"urn:corsac:request:{request_id}",
        "reason": reason,
        "service": service or None,
        "operation": operation or None,
        "request_id": request_id,
        "retry": error.retry,
        "retry_after_s": error.retry_after_s,
        "hint": error.hint,
        "errors": [{"pointer": e.pointer, "reason": e.reason, "detail": e.detail} for e in error.errors],
    }


def problem_bytes(error: CorsacError, request_id: str, service: str = "", operation: str = "") -> bytes:
    """The problem document as JSON."""
    return orjson.dumps(problem_document(error, request_id, service, operation))


def problem_headers(error: CorsacError, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a problem answer, `Retry-After` and the error's own included."""
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    own = {name.lower(): value for name, value in error.headers.items()}
    if error.retry_after_s is not None:
        own.setdefault("retry-after", str(max(1, math.ceil(error.retry_after_s))))
    return headers + [(name.encode(), value.encode("latin-1")) for name, value in own.items()]
