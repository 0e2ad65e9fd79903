"""What a worker and its child say to each other over their private socket.

A message is two lengths (unsigned 32-bit, big-endian), a JSON object and raw bytes. Never pickle: native code
that parses strangers' files may be taken over, and whoever holds the child could then run code in the server.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

HEAD = struct.Struct("!II")
MAX_JSON_BYTES = 16 << 20
MAX_MESSAGE_BYTES = 256 << 20


class MessageTooLarge(ValueError):
    """A message is over the bound; it was not sent."""


class ProtocolBroken(ValueError):
    """The other side sent something that is no message."""


class Rejected(Exception):
    """Raised by a child's method to refuse a request for a reason that its caller knows.

    Args:
        code: Which refusal it is, for the caller's code.
        detail: A sentence for the client, without paths, library messages or the input.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class WorkerRejected(Exception):
    """The child raised `Rejected`: the request was refused on purpose, the child is well."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class WorkerError(Exception):
    """The child's method raised an exception.

    Args:
        kind: The exception's class name.
        message: Its text: a library's words, for the log, never for a client.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class WorkerStartFailed(WorkerError):
    """The child could not import or make what it should run; `ImportError` as kind: a package is missing."""


Outcome = Literal["ready", "result", "rejected", "failed"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON part of what a child says.

    Args:
        outcome: `ready` after the start, then one of the others for each request.
        result: What the method returned.
        code: The refusal's code or the exception's kind.
        detail: The refusal's sentence or the exception's text.
    """

    outcome: Outcome
    result: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    detail: str = ""

    def pack(self, payload: memoryview | bytes = b"") -> bytes:
        """The head and JSON of the message; see `pack`."""
        return pack(asdict(self), len(payload))

    @classmethod
    def unpack(cls, text: bytes | bytearray) -> Answer:
        """Read a child's answer without trusting it.

        Raises:
            ProtocolBroken: It is none.
        """
        try:
            match json.loads(text):
                case {
                    "outcome": outcome,
                    "result": dict(result),
                    "code": str(code),
                    "detail": str(detail),
                } if outcome in get_args(Outcome):
                    return cls(cast(Outcome, outcome), result, code, detail)
        except (ValueError, RecursionError) as error:
            raise ProtocolBroken("The answer is not JSON.") from error
        raise ProtocolBroken("The answer has not the form of one.")


def pack(body: Mapping[str, Any], n_payload_bytes: int = 0) -> bytes:
    """The head and JSON of a message; the payload follows them on the wire.

    Raises:
        MessageTooLarge: The JSON has over 16 MiB, or all of it over 256 MiB.
        TypeError, ValueError: The body is not JSON: a foreign type, NaN, infinity.
    """
    text = json.dumps(body, allow_nan=False).encode()
    if len(text) > MAX_JSON_BYTES or len(text) + n_payload_bytes > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"{len(text)} bytes of JSON and {n_payload_bytes} of payload are too many.")
    return HEAD.pack(len(text), n_payload_bytes) + text


def unpack_head(head: bytes | bytearray) -> tuple[int, int]:
    """The lengths of JSON and payload.

    Raises:
        ProtocolBroken: They are over the bounds.
    """
    n_text, n_payload = HEAD.unpack(head)
    if n_text > MAX_JSON_BYTES or n_text + n_payload > MAX_MESSAGE_BYTES:
        raise ProtocolBroken("The announced message is too long.")
    return n_text, n_payload
