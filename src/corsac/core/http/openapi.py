"""What the OpenAPI document says beyond types: errors, scopes and limits of every operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from corsac.core import exceptions as errors
from corsac.core.exceptions import CorsacError
from corsac.core.http.problem import MEDIA_TYPE, problem_document
from corsac.core.idempotency import HEADER, IDEMPOTENCY_ERRORS, MAX_KEY_CHARS
from corsac.core.identity import ANY, PUBLIC
from corsac.core.streams import event as stream_errors

if TYPE_CHECKING:
    from corsac.core.base_router import Route

BODY_ERRORS = (
    errors.MalformedJson,
    errors.NonFiniteNumber,
    errors.InvalidUnicode,
    errors.InvalidUtf8,
    errors.InvalidEncoding,
    errors.DuplicateKey,
    errors.JsonTooDeep,
    errors.NumberTooLarge,
    errors.RequestTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.ContentEncodingUnsupported,
    errors.BodyRequired,
    errors.FieldRequired,
    errors.UnknownField,
    errors.WrongType,
    errors.OutOfRange,
    errors.InvalidChoice,
    errors.Invalid,
)
QUERY_ERRORS = (errors.FieldRequired, errors.WrongType, errors.OutOfRange, errors.InvalidChoice, errors.Invalid)
IDEMPOTENCY_PARAMETER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Chosen by the client, for example a random UUID. Within 24 hours a repetition of the request with "
    "the same key is answered as before, with `Idempotency-Replayed: true`, and its work is not done again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]+$"},
}
NULLABLE_STRING = {"type": ["string", "null"]}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Every answer of 400 and above (RFC 9457).",
    "required": ["type", "title", "status", "detail", "instance", "reason", "request_id", "retry"],
    "properties": {
        "type": {"type": "string", "description": "Page that explains the reason."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was found and what would be right."},
        "instance": {"type": "string"},
        "reason": {"type": "string", "description": "One of a closed list of words."},
        "service": NULLABLE_STRING,
        "operation": NULLABLE_STRING,
        "request_id": {"type": "string", "description": "Finds the request in the server's log."},
        "retry": {"type": "string", "enum": ["retry", "retry_higher", "fix_first", "never"]},
        "retry_after_s": {"type": ["number", "null"]},
        "hint": NULLABLE_STRING,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "reason", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON Pointer, or query/name, path/name, header/name.",
                    },
                    "reason": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def answerable_errors(route: Route, scope: str, *, has_body: bool, has_query: bool) -> list[type[CorsacError]]:
    """The error classes that an operation can answer with, without duplicates, by status."""
    classes: list[type[CorsacError]] = [errors.UnknownField, errors.InvalidTimeout, errors.HostNotAllowed]
    classes += [errors.OriginNotAllowed, errors.RateLimited, errors.InternalError, errors.DeadlineExceeded]
    classes += [errors.ShuttingDown, errors.NotAcceptable, errors.TooManyFields]
    if scope != PUBLIC:
        classes += [errors.Unauthenticated]
    if scope not in (PUBLIC, ANY):
        classes += [errors.ScopeMissing]
    if not route.while_down:
        classes += [errors.ServiceUnavailable]
    if has_body:
        classes += BODY_ERRORS
    if has_query:
        classes += QUERY_ERRORS
    if route.upload:
        classes += [errors.MultipartInvalid, errors.BodyTooLarge, errors.StorageFull, errors.StorageFailed]
    if route.method != "GET":
        classes += [errors.UnsupportedMediaType, errors.ContentEncodingUnsupported]
    if route.idempotent_key:
        classes += IDEMPOTENCY_ERRORS
    if route.events is not None:
        classes += [stream_errors.InvalidEventId, stream_errors.TooManyStreams, errors.InvalidChoice]
    if "{" in route.path:
        classes += [errors.InvalidId, errors.NotFound]
    return sorted({*classes, *route.raises}, key=lambda each: (each.status, each.reason))


def documented_errors(route: Route, scope: str, *, has_body: bool, has_query: bool) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation: one entry a status, with an example for each reason."""
    documented: dict[int | str, dict[str, Any]] = {}
    for each in answerable_errors(route, scope, has_body=has_body, has_query=has_query):
        entry = documented.setdefault(each.status, {"description": "", "content": {MEDIA_TYPE: {}}})
        entry["description"] += f"{'; ' if entry['description'] else ''}{each.reason}: {each.title()}"
        content = entry["content"][MEDIA_TYPE]
        content.setdefault("schema", {"$ref": "#/components/schemas/Problem"})
        example = problem_document(each(), "4b0c5f3c9d1e4a7f8a6b2c1d0e9f8a7b")
        content.setdefault("examples", {})[each.reason] = {"value": example}
    return documented


def documented_rules(route: Route, scope: str) -> dict[str, Any]:
    """Scope, limit, deadline and size of an operation, as extensions of the OpenAPI document."""
    rules: dict[str, Any] = {
        "x-corsac-scope": scope,
        "x-corsac-timeout-s": route.timeout_s,
        "x-corsac-max-body-bytes": route.max_body_bytes,
    }
    if route.limit is not None:
        rules["x-corsac-limit-per-minute"] = route.limit.rate_per_minute
    if route.idempotent_key:
        rules["parameters"] = [IDEMPOTENCY_PARAMETER]
    if route.events is not None:
        rules["x-corsac-events"] = documented_events(route.events)
    if scope != PUBLIC:
        rules["security"] = [{"bearer": []}]
    return rules


def documented_events(events: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of a stream's events by type, those that every stream has included."""
    own = {
        name: {} if kind in (Any, object) else TypeAdapter(kind).json_schema(mode="serialization")
        for name, kind in events.items()
    }
    return own | {
        "done": {"type": "object", "description": "The end of a complete stream."},
        "error": {"$ref": "#/components/schemas/Problem"},
        "reset": {"type": "object", "description": "What came before is not continued without a gap."},
        "shutdown": {"type": "object", "description": "The server ends; the data say where to resume."},
    }


def openapi_document(title: str, version: str, description: str, routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `routes`."""
    document = get_openapi(title=title, version=version, description=description, routes=routes)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return document


def reason_index(classes: Iterable[type[CorsacError]]) -> dict[str, type[CorsacError]]:
    """Error classes by reason, in alphabetical order."""
    return {each.reason: each for each in sorted(classes, key=lambda each: each.reason)}
