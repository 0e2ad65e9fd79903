"""Answers by `Idempotency-Key`: a request that is repeated is answered as before and its work is not done again.

A key belongs to one principal and one operation. Its row is durable before the work begins, and holds the answer before
the client gets it: a crash at any moment leaves an answer that is whole, or a key that the next start has freed.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from corsac.core.error_handler import general_class
from corsac.core.exceptions import CorsacError, FieldError, Invalid, InvalidRequest, error_classes

if TYPE_CHECKING:
    import apsw

    from corsac.core.storage.database import Database

HEADER = "Idempotency-Key"
KEPT_S = 86_400.0
SWEEP_ROWS = 50
"""Expired rows that each new key removes: more than one, so that they end, and few, so that the writer goes on."""
MAX_KEY_CHARS = 255
KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_KEY_CHARS)
FIND = """SELECT request_sha256, boot, status, headers, body FROM idempotency
    WHERE principal = ? AND route = ? AND key = ? AND created_at > ?"""
TAKE = """INSERT OR REPLACE INTO idempotency(principal, route, key, request_sha256, boot, claim, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
KEEP = """UPDATE idempotency SET status = ?, headers = ?, body = ?
    WHERE principal = ? AND route = ? AND key = ? AND boot = ? AND claim = ?"""
FREE = "DELETE FROM idempotency WHERE principal = ? AND route = ? AND key = ? AND boot = ? AND claim = ?"
FORGET = "DELETE FROM idempotency WHERE rowid IN (SELECT rowid FROM idempotency WHERE created_at <= ? LIMIT ?)"


class IdempotencyKeyInvalid(InvalidRequest):
    """The Idempotency-Key is not usable.

    One header with 1 to 255 visible ASCII characters, for example a random UUID.
    """

    reason = "IDEMPOTENCY_KEY_INVALID"


class IdempotencyKeyInFlight(CorsacError):
    """A request with this Idempotency-Key is still being answered.

    Repeat it a little later: it is then answered as the first one was.
    """

    status, reason, retry = 409, "IDEMPOTENCY_KEY_IN_FLIGHT", "retry"


class IdempotencyKeyReused(Invalid):
    """The Idempotency-Key was used for another request.

    Within 24 hours a key stands for one request: the same operation, path, query, Accept and body. Take a new key.
    """

    reason = "IDEMPOTENCY_KEY_REUSED"


IDEMPOTENCY_ERRORS = (IdempotencyKeyInvalid, IdempotencyKeyInFlight, IdempotencyKeyReused)


@dataclass(frozen=True, slots=True)
class Slot:
    """What a key stands for.

    Args:
        principal: Id of who sent it.
        route: The operation, for example `tts.synthesize`.
        key: What the client chose.
    """

    principal: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that can be given again.

    Args:
        status: HTTP status.
        headers: Names in lower case, values.
        body: All of it; for an error its parts, see `kept_error`.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(slots=True)
class IdempotencyStore:
    """Keys and their answers, in the database.

    Args:
        database: Keeps the rows.
        now: Seconds since the epoch.
        kept_s: Seconds that a key is kept.
        boot: Names this start of the server; keys that an earlier one was answering are free.
    """

    database: Database
    now: Callable[[], float] = time.time
    kept_s: float = KEPT_S
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    _claims: itertools.count[int] = field(default_factory=lambda: itertools.count(1), init=False)

    def new_claim(self) -> int:
        """A number for one request: it can free what it took, and nobody else's."""
        return next(self._claims)

    async def take(self, slot: Slot, request_sha256: bytes, claim: int) -> KeptAnswer | None:
        """Take a key for a request that is about to be answered.

        Args:
            slot: The key.
            request_sha256: Digest of what must be the same, 32 bytes.
            claim: From `new_claim`.

        Returns:
            The answer that was given before; None: there is none, and the key is now taken, durably.

        Raises:
            IdempotencyKeyReused: It was used for another request.
            IdempotencyKeyInFlight: The same request is being answered.
            StorageFailed, StorageFull: The key could not be stored.
        """
        now = self.now()

        def unit(db: apsw.Connection) -> KeptAnswer | None:
            db.execute(FORGET, (now - self.kept_s, SWEEP_ROWS))
            row: Any = db.execute(FIND, (*astuple(slot), now - self.kept_s)).fetchone()
            if row is not None:
                known_sha256, boot, status, headers, body = row
                if status is not None or boot == self.boot:
                    if known_sha256 != request_sha256:
                        raise IdempotencyKeyReused
                    if status is None:
                        raise IdempotencyKeyInFlight(retry_after_s=1)
                    return KeptAnswer(status, [(name, value) for name, value in json.loads(headers)], body)
            db.execute(TAKE, (*astuple(slot), request_sha256, self.boot, claim, now))
            return None

        return await self.database.write(unit)

    async def keep(self, slot: Slot, claim: int, answer: KeptAnswer) -> None:
        """Store the answer of a taken key. Returns once it is durable."""
        row = (answer.status, json.dumps(list(answer.headers)), answer.body, *astuple(slot), self.boot, claim)
        await self.database.write(lambda db: db.execute(KEEP, row).fetchall())

    async def free(self, slot: Slot, claim: int) -> None:
        """Let the key be used again, with or without an answer."""
        row = (*astuple(slot), self.boot, claim)
        await self.database.write(lambda db: db.execute(FREE, row).fetchall())


def key_of(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The Idempotency-Key of a request; None where it has none.

    Args:
        headers: Names in lower case, values.

    Raises:
        IdempotencyKeyInvalid: It is empty, too long, holds spaces or control characters, or was sent twice.
    """
    found = [value for name, value in headers if name == b"idempotency-key"]
    if not found:
        return None
    if len(found) > 1 or not KEY.fullmatch(found[0]):
        raise IdempotencyKeyInvalid(f"The header {HEADER} stands once, with 1 to {MAX_KEY_CHARS} visible characters.")
    return found[0].decode("ascii")


def is_deterministic(error: CorsacError) -> bool:
    """Whether the same request can only fail again, so that its error is as good as an answer."""
    return 400 <= error.status < 500 and error.retry == "fix_first"


def kept_error(error: CorsacError) -> KeptAnswer:
    """An error as it is kept; `error_again` is the way back."""
    parts = {"reason": error.reason, "detail": error.detail, "hint": error.hint, "headers": error.headers}
    return KeptAnswer(error.status, (), json.dumps({**parts, "errors": [asdict(e) for e in error.errors]}).encode())


def error_again(answer: KeptAnswer) -> CorsacError:
    """The error that was kept, as a new one of the same class; of its general class where a plugin took that along."""
    parts = json.loads(answer.body)
    same = (each for each in error_classes() if each.reason == parts["reason"])
    kind = next(same, None) or general_class(answer.status)
    error = kind.__new__(kind)  # some classes make their detail from arguments of their own
    places = [FieldError(**each) for each in parts["errors"]]
    CorsacError.__init__(error, parts["detail"], hint=parts["hint"], errors=places, headers=parts["headers"])
    return error
