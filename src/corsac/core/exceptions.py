"""The error tree. A class is a reason: one HTTP status, one word, one page of the documentation.

CorsacError
├── InvalidRequest 400 ........ what cannot be read: MalformedJson, NonFiniteNumber, InvalidUnicode, InvalidUtf8,
│                               InvalidEncoding, DuplicateKey, JsonTooDeep, NumberTooLarge, InvalidTimeout,
│                               InvalidCursor, MultipartInvalid, TooManyFields
├── Unauthenticated 401 ....... no credential, or one that is not ours
├── Forbidden 403 ............. ScopeMissing, OriginNotAllowed
├── NotFound 404 .............. ConfigVersionNotFound, ServiceNotFound
├── MethodNotAllowed 405, NotAcceptable 406, RequestTimeout 408
├── Conflict 409 .............. UnsafeConfig, HasDependents, AlreadyRegistered
├── ConfigVersionConflict 412
├── TooLarge 413 .............. BodyTooLarge
├── UnsupportedMediaType 415 .. ContentEncodingUnsupported
├── HostNotAllowed 421
├── Invalid 422 ............... what can be read and is wrong: BodyRequired, FieldRequired, UnknownField, WrongType,
│                               OutOfRange, InvalidChoice, InvalidFormat, InvalidId, DependencyCycle
├── RateLimited 429, HeadersTooLarge 431
├── InternalError 500 ......... everything we did not foresee; says nothing of what it was
├── Unavailable 503 ........... ServiceUnavailable, EngineUnavailable, ShuttingDown, TooManyConnections, CircuitOpen,
│                               StorageFailed, WorkerCrashed, WorkerOutOfMemory
├── DeadlineExceeded 504
├── OutOfSpace 507 ............ StorageFull, QuotaExceeded
└── StartRefused .............. never answered over HTTP: the process ends with `exit_code`

The first line of a class's docstring is the error's title; the rest is what its page says. A service adds its own
classes in its `service.py` where a caller would act differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Retry = Literal["retry", "retry_higher", "fix_first", "never"]
"""What repeating helps: the same request later (`retry`), the whole exchange from its start, for example reading
again before writing (`retry_higher`), a corrected request (`fix_first`), or nothing (`never`)."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid place of a request.

    Args:
        pointer: JSON Pointer (RFC 6901) into the body, or `query/name`, `path/name`, `header/name`.
        reason: The reason of this place alone.
        detail: A sentence that says what would be right. Never echoes the value.
    """

    pointer: str
    reason: str
    detail: str


class CorsacError(Exception):
    """Something went wrong

    Args:
        detail: A sentence for the client: what was found and what would be right. Never a path, an address, a
            library's message or the client's own input. Empty: the class's title.
        hint: What to do next, for example the command that installs what is missing.
        retry_after_s: Seconds until the same request has a chance.
        errors: The invalid places, for answers about several fields.
        headers: Extra response headers (`Allow`, `WWW-Authenticate`, …).
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = ""
    retry: ClassVar[Retry] = "never"

    def __init__(
        self,
        detail: str = "",
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or f"{self.title()}."
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """The first line of the class's docstring, without its period."""
        return (cls.__doc__ or cls.__name__).strip().partition("\n")[0].rstrip(".")

    @classmethod
    def explanation(cls) -> str:
        """The rest of the class's docstring: what the reason's page says."""
        return "\n".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines()[1:]).strip()


def error_classes(root: type[CorsacError] = CorsacError) -> Iterator[type[CorsacError]]:
    """Every class under `root` that carries a reason of its own, each once."""
    for child in root.__subclasses__():
        if "reason" in vars(child) and child.reason:
            yield child
        yield from error_classes(child)


# -- 400: cannot be read


class InvalidRequest(CorsacError):
    """The request cannot be read.

    Its syntax is broken below the level of any field: send it again in well-formed HTTP.
    """

    status, reason, retry = 400, "INVALID_REQUEST", "fix_first"


class MalformedJson(InvalidRequest):
    """The body is not JSON.

    The detail gives the line and column where reading stopped.
    """

    reason = "MALFORMED_JSON"


class NonFiniteNumber(InvalidRequest):
    """A number in the body is not finite.

    JSON has no NaN and no Infinity, and 1e999 does not fit a double. Leave the field out or send null.
    """

    reason = "NON_FINITE_NUMBER"


class InvalidUnicode(InvalidRequest):
    """A string in the body holds half a surrogate pair.

    Escapes from \\ud800 to \\udfff only stand in pairs.
    """

    reason = "INVALID_UNICODE"


class InvalidUtf8(InvalidRequest):
    """The body is not valid UTF-8.

    JSON between systems is UTF-8 (RFC 8259, section 8.1).
    """

    reason = "INVALID_UTF8"


class InvalidEncoding(InvalidRequest):
    """The body is JSON in another encoding than UTF-8, or starts with a byte order mark.

    Send UTF-8 without a byte order mark.
    """

    reason = "INVALID_ENCODING"


class DuplicateKey(InvalidRequest):
    """An object in the body names the same key twice.

    Parsers disagree about which one counts, so neither does.
    """

    reason = "DUPLICATE_KEY"


class JsonTooDeep(InvalidRequest):
    """The body is nested too deeply.

    Arrays and objects may be nested 64 levels deep.
    """

    reason = "JSON_TOO_DEEP"


class NumberTooLarge(InvalidRequest):
    """A number in the body has too many digits.

    An integer may have 308 digits, as many as the largest double.
    """

    reason = "NUMBER_TOO_LARGE"


class InvalidTimeout(InvalidRequest):
    """X-Request-Timeout-Ms is not a usable number of milliseconds.

    A whole number from 1 to 600000.
    """

    reason = "INVALID_TIMEOUT"


class InvalidCursor(InvalidRequest):
    """The cursor is not one that this server gave out.

    Start again without a cursor.
    """

    reason = "INVALID_CURSOR"


class MultipartInvalid(InvalidRequest):
    """The multipart body is broken.

    Every part needs a name, and the body must end with the closing boundary.
    """

    reason = "MULTIPART_INVALID"


class TooManyFields(InvalidRequest):
    """The form has too many fields.

    A form may have 1000 parts.
    """

    reason = "TOO_MANY_FIELDS"


# -- 401 to 421: may not, is not there, does not fit


class Unauthenticated(CorsacError):
    """A valid credential is required.

    Send `Authorization: Bearer <token>`. The server prints its token at the first start and keeps it in the file
    `token` of its data directory; `corsac keys create` makes keys with fewer rights. A token in the query is refused.
    """

    status, reason, retry = 401, "UNAUTHENTICATED", "fix_first"


class Forbidden(CorsacError):
    """This credential may not do this.

    Ask the owner of the server for a key that may.
    """

    status, reason, retry = 403, "FORBIDDEN", "never"


class ScopeMissing(Forbidden):
    """The key lacks the scope that this operation needs.

    The detail names the scope; `corsac keys create --scope …` makes a key that has it.
    """

    reason = "SCOPE_MISSING"


class OriginNotAllowed(Forbidden):
    """Requests from this web origin are not allowed.

    Another site's page may not use this server through a visitor's browser. Set CORSAC_CORS_ORIGINS to allow one.
    """

    reason = "ORIGIN_NOT_ALLOWED"


class NotFound(CorsacError):
    """There is nothing here.

    No such path, or no such object among those that this credential may see.
    """

    status, reason, retry = 404, "NOT_FOUND", "never"


class ServiceNotFound(NotFound):
    """No service has this name.

    `GET /api/registry` lists them.
    """

    reason = "SERVICE_NOT_FOUND"


class ConfigVersionNotFound(NotFound):
    """The configuration has no such version.

    `GET /api/<service>/config/history` lists them.
    """

    reason = "CONFIG_VERSION_NOT_FOUND"


class MethodNotAllowed(CorsacError):
    """This path does not take this method.

    The header Allow lists those that it takes.
    """

    status, reason, retry = 405, "METHOD_NOT_ALLOWED", "fix_first"


class NotAcceptable(CorsacError):
    """The answer cannot be given in any of the accepted formats.

    The detail names the formats there are.
    """

    status, reason, retry = 406, "NOT_ACCEPTABLE", "fix_first"


class RequestTimeout(CorsacError):
    """The request did not arrive in time.

    The headers have 10 seconds; a body may pause for 15.
    """

    status, reason, retry = 408, "REQUEST_TIMEOUT", "retry"


class Conflict(CorsacError):
    """The request does not fit the present state.

    Read the state again and decide anew.
    """

    status, reason, retry = 409, "CONFLICT", "retry_higher"


class UnsafeConfig(Conflict):
    """This configuration would lock its author out.

    Send it again with `force` and a reason if that is wanted.
    """

    reason = "UNSAFE_CONFIG"


class HasDependents(Conflict):
    """Other services need this one.

    Stop those first; the detail lists them.
    """

    reason = "HAS_DEPENDENTS"


class AlreadyRegistered(Conflict):
    """Something of this name is registered already.

    Names of services and engines are unique; rename or remove one of the two plugins.
    """

    reason = "ALREADY_REGISTERED"


class ConfigVersionConflict(CorsacError):
    """The configuration changed since it was read.

    Read it again, apply the change to the new version and send that version's ETag as If-Match.
    """

    status, reason, retry = 412, "CONFIG_VERSION_CONFLICT", "retry_higher"


class TooLarge(CorsacError):
    """The request asks for more than the server takes.

    The detail gives the limit.
    """

    status, reason, retry = 413, "TOO_LARGE", "fix_first"


class BodyTooLarge(TooLarge):
    """The body is larger than this operation takes.

    The detail gives the limit in bytes.
    """

    reason = "BODY_TOO_LARGE"


class UnsupportedMediaType(CorsacError):
    """The body's media type is not one that this operation takes.

    JSON operations take `application/json` only.
    """

    status, reason, retry = 415, "UNSUPPORTED_MEDIA_TYPE", "fix_first"


class ContentEncodingUnsupported(UnsupportedMediaType):
    """Compressed bodies are not accepted.

    Send the body without Content-Encoding.
    """

    reason = "CONTENT_ENCODING_UNSUPPORTED"


class HostNotAllowed(CorsacError):
    """The Host header names a host that this server does not answer for.

    Set CORSAC_ALLOWED_HOSTS to the names under which it is reached.
    """

    status, reason, retry = 421, "HOST_NOT_ALLOWED", "fix_first"


# -- 422: can be read and is wrong


class Invalid(CorsacError):
    """The request is invalid.

    `errors` lists every invalid place by its JSON Pointer.
    """

    status, reason, retry = 422, "INVALID", "fix_first"


class BodyRequired(Invalid):
    """A body is required.

    The operation takes a JSON object.
    """

    reason = "BODY_REQUIRED"


class FieldRequired(Invalid):
    """A required field is missing.

    `errors` names it.
    """

    reason = "FIELD_REQUIRED"


class UnknownField(Invalid):
    """The request has a field that does not exist.

    `errors` names the nearest one that does.
    """

    reason = "UNKNOWN_FIELD"


class WrongType(Invalid):
    """A value has the wrong type.

    Types are strict: the string "5" is not a number and "true" is not a boolean.
    """

    reason = "WRONG_TYPE"


class OutOfRange(Invalid):
    """A value is out of its range.

    `errors` gives the range.
    """

    reason = "OUT_OF_RANGE"


class InvalidChoice(Invalid):
    """A value is not one of those allowed.

    `errors` lists them.
    """

    reason = "INVALID_CHOICE"


class InvalidFormat(Invalid):
    """The output format is not one that can be made.

    `errors` lists those that can.
    """

    reason = "INVALID_FORMAT"


class InvalidId(Invalid):
    """The identifier cannot be one of ours.

    Identifiers are 1 to 64 characters of a-z, 0-9, underscore and hyphen; a path holds no encoded slash,
    backslash, control character or dot segment.
    """

    reason = "INVALID_ID"


class DependencyCycle(Invalid):
    """Services need each other in a circle.

    The detail names the circle.
    """

    reason = "DEPENDENCY_CYCLE"


# -- 429, 431


class RateLimited(CorsacError):
    """Too many requests.

    Wait as long as Retry-After says. RateLimit and RateLimit-Policy give the limits and what is left of them.
    """

    status, reason, retry = 429, "RATE_LIMITED", "retry"


class HeadersTooLarge(CorsacError):
    """The request's headers are too large.

    64 KiB and 100 headers at most.
    """

    status, reason, retry = 431, "HEADERS_TOO_LARGE", "fix_first"


# -- 500 and above: ours


class InternalError(CorsacError):
    """The server failed.

    The server's log has the details under this answer's `request_id`.
    """

    status, reason, retry = 500, "INTERNAL_ERROR", "retry"


class Unavailable(CorsacError):
    """This cannot be done at the moment.

    Try again later.
    """

    status, reason = 503, "UNAVAILABLE"
    retry: ClassVar[Retry] = "retry"


class ServiceUnavailable(Unavailable):
    """The service is not running.

    Its health, `GET /api/<service>/health`, says why.
    """

    reason = "SERVICE_UNAVAILABLE"


class EngineUnavailable(Unavailable):
    """No engine that could do this is running.

    The hint gives the command that installs or fetches what is missing.
    """

    reason, retry = "ENGINE_UNAVAILABLE", "fix_first"


class ShuttingDown(Unavailable):
    """The server is shutting down.

    Try again once it is back.
    """

    reason = "SHUTTING_DOWN"


class TooManyConnections(Unavailable):
    """The server has as many connections as it takes.

    Close idle connections or try again later.
    """

    reason = "TOO_MANY_CONNECTIONS"


class CircuitOpen(Unavailable):
    """What this needs has failed too often and is being left alone for a while.

    Retry-After says for how long.
    """

    reason = "CIRCUIT_OPEN"


class StorageFailed(Unavailable):
    """The server could not store this.

    Whether the change was stored is unknown: read it again before repeating it.
    """

    reason, retry = "STORAGE_FAILED", "retry_higher"


class WorkerCrashed(Unavailable):
    """The process that did the work died.

    It is started afresh for the next request.
    """

    reason = "WORKER_CRASHED"


class WorkerOutOfMemory(Unavailable):
    """The work needed more memory than it may use.

    Ask for less at once: a shorter text, a smaller picture.
    """

    reason, retry = "WORKER_OUT_OF_MEMORY", "fix_first"


class DeadlineExceeded(CorsacError):
    """The work was not done within its deadline and was stopped.

    Give it more time with X-Request-Timeout-Ms, or ask for less.
    """

    status, reason, retry = 504, "DEADLINE_EXCEEDED", "retry"


class OutOfSpace(CorsacError):
    """There is no room for this.

    Delete something first.
    """

    status, reason, retry = 507, "OUT_OF_SPACE", "fix_first"


class StorageFull(OutOfSpace):
    """The disk is full.

    `corsac doctor` lists what takes the space.
    """

    reason = "STORAGE_FULL"


class QuotaExceeded(OutOfSpace):
    """The quota is used up.

    The detail gives what is used and what is allowed.
    """

    reason = "QUOTA_EXCEEDED"


# -- the process


class StartRefused(CorsacError):
    """The server cannot start like this.

    Printed to the terminal; the process ends with the code of sysexits.h that fits.
    """

    exit_code: ClassVar[int] = 78


class DataDirectoryLocked(StartRefused):
    """Another server uses this data directory.

    Exit code 75: stop the other one first, or give this one a directory of its own.
    """

    exit_code = 75
