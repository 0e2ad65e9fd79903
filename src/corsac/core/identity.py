"""Who is calling: the owner's token, API keys with scopes, browser sessions and the tickets that start them."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from corsac.core.exceptions import NotFound, Unauthenticated
from corsac.core.storage.files import write_atomically

if TYPE_CHECKING:
    import apsw

    from corsac.core.logs.redaction import SecretRedactor
    from corsac.core.storage.database import Database

PUBLIC = "public"
"""The scope of operations that nobody needs a credential for."""
ANY = "any"
"""The scope of operations that every valid credential may use."""
ADMIN = "admin"
"""The scope that covers all others and sees every principal's rows."""

RESERVED_SCOPES = frozenset({PUBLIC, ANY, ADMIN})
KEY_PREFIX = "corsac_"
"""Starts every secret of ours, so that logs recognize and mask them without being told."""
SESSION_S = 30 * 86_400.0
TICKET_S = 300.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody that rows belong to. A principal may have many keys.

    Args:
        id: Owner of rows, for example `owner` or `alice`.
        key_id: The credential that was shown, for logs and limits.
        scopes: What it may do: names of services, `any`, `admin`.
    """

    id: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether an operation of this scope is allowed."""
        return scope in self.scopes or ADMIN in self.scopes or scope == ANY

    @property
    def sees(self) -> str | None:
        """Whose rows it sees: its own, or None for everybody's."""
        return None if ADMIN in self.scopes else self.id


OWNER = Principal("owner", "owner", frozenset({ADMIN}))
"""Whoever holds the server's own token."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed: everything but the secret.

    Args:
        id: Names it in lists, logs and `DELETE /api/keys/{id}`.
        principal: Whom its rows belong to.
        name: For people.
        scopes: What it may do.
        created_at: RFC 3339, UTC.
    """

    id: str
    principal: str
    name: str
    scopes: tuple[str, ...]
    created_at: str


@dataclass(slots=True)
class _Credential:
    """A known credential by the digest of its secret."""

    digest: bytes
    principal: Principal
    expires_at: float | None = None


def digest_of(secret: str) -> bytes:
    """SHA-256 of a secret; only digests are kept and compared."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def owner_token(path: Path) -> tuple[str, bool]:
    """The server's token, made at the first start.

    Args:
        path: The file that keeps it, mode 0600.

    Returns:
        The token, and whether it was made just now.
    """
    if path.exists() and (token := path.read_text(encoding="ascii").strip()):  # an empty one would let everybody in
        return token, False
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    write_atomically(path, token.encode() + b"\n", mode=0o600)
    return token, True


@dataclass(slots=True)
class Identity:
    """Recognizes credentials. All digests are in memory; the database is their truth across starts.

    Args:
        token_file: Keeps the owner's token; made at the first start.
        database: Keeps keys and sessions.
        redactor: Learns every secret that is made, so that no log shows it.
        now: Seconds since the epoch.
    """

    token_file: Path
    database: Database
    redactor: SecretRedactor
    now: Callable[[], float] = time.time
    token: str = ""
    token_is_new: bool = False
    _known: dict[bytes, _Credential] = field(default_factory=dict)
    _sessions: dict[bytes, _Credential] = field(default_factory=dict)
    _tickets: dict[bytes, float] = field(default_factory=dict)

    async def load(self) -> None:
        """Read the token, keys and sessions."""
        self.token, self.token_is_new = owner_token(self.token_file)
        self.redactor.add(self.token)
        self._known[digest_of(self.token)] = _Credential(digest_of(self.token), OWNER)

        def rows(
            db: apsw.Connection,
        ) -> tuple[list[tuple[bytes, str, str, str]], list[tuple[bytes, str, float]]]:
            keys = db.execute("SELECT key_sha256, principal, id, scopes FROM api_keys WHERE revoked_at IS NULL")
            listed = [(bytes(k), str(p), str(i), str(s)) for k, p, i, s in keys]
            live = db.execute(
                "SELECT token_sha256, key_id, expires_at FROM sessions WHERE expires_at > ?", (self.now(),)
            )
            return listed, [(bytes(d), str(k), float(str(e))) for d, k, e in live]

        keys, sessions = await self.database.read(rows)
        for digest, principal, key_id, scopes in keys:
            self._known[digest] = _Credential(digest, Principal(principal, key_id, frozenset(json.loads(scopes))))
        by_key = {credential.principal.key_id: credential.principal for credential in self._known.values()}
        for digest, key_id, expires_at in sessions:
            if key_id in by_key:
                self._sessions[digest] = _Credential(digest, by_key[key_id], expires_at)

    def by_secret(self, secret: str) -> Principal:
        """The principal of a token or key.

        Raises:
            Unauthenticated: It is not one of ours, or no longer.
        """
        return self._find(self._known, secret)

    def by_session(self, secret: str) -> Principal:
        """The principal of a browser's session cookie.

        Raises:
            Unauthenticated: It is not one of ours, or has expired.
        """
        return self._find(self._sessions, secret)

    def _find(self, among: dict[bytes, _Credential], secret: str) -> Principal:
        digest = digest_of(secret)
        known = among.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise Unauthenticated("The credential is not one of this server's, or it was revoked.")
        if known.expires_at is not None and known.expires_at <= self.now():
            del among[digest]
            raise Unauthenticated("The session has expired.")
        return known.principal

    async def create_key(self, principal: str, name: str, scopes: Sequence[str]) -> tuple[ApiKey, str]:
        """Make a key.

        Args:
            principal: Whom its rows will belong to.
            name: For people.
            scopes: Names of services, `any` or `admin`.

        Returns:
            The key as it will be listed, and its secret, which is shown this once.
        """
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        self.redactor.add(secret)
        digest = digest_of(secret)
        created_at = datetime.fromtimestamp(self.now(), UTC).isoformat().replace("+00:00", "Z")
        key = ApiKey(secrets.token_hex(6), principal, name, tuple(sorted(set(scopes))), created_at)
        row = (key.id, principal, name, digest, json.dumps(key.scopes), "{}", created_at)
        await self.database.write(
            lambda db: db.execute(
                "INSERT INTO api_keys(id, principal, name, key_sha256, scopes, quotas, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            ).fetchall()
        )
        self._known[digest] = _Credential(digest, Principal(principal, key.id, frozenset(key.scopes)))
        return key, secret

    async def list_keys(self) -> list[ApiKey]:
        """All keys that are not revoked, oldest first."""
        columns = (
            "SELECT id, principal, name, scopes, created_at FROM api_keys WHERE revoked_at IS NULL ORDER BY created_at"
        )
        rows = await self.database.read(lambda db: db.execute(columns).fetchall())
        return [ApiKey(str(i), str(p), str(n), tuple(json.loads(str(s))), str(c)) for i, p, n, s, c in rows]

    async def revoke_key(self, key_id: str) -> None:
        """End a key and the browser sessions that it started.

        Raises:
            NotFound: No such key.
        """
        at = datetime.fromtimestamp(self.now(), UTC).isoformat().replace("+00:00", "Z")

        def unit(db: apsw.Connection) -> int:
            db.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (at, key_id))
            revoked = db.changes()
            if revoked:  # the owner's sessions carry an id that is no key's
                db.execute("DELETE FROM sessions WHERE key_id = ?", (key_id,))
            return revoked

        if not await self.database.write(unit):
            raise NotFound
        for among in (self._known, self._sessions):
            for digest in [d for d, known in among.items() if known.principal.key_id == key_id]:
                del among[digest]

    def issue_ticket(self) -> str:
        """A word that a browser exchanges for a session: once, within five minutes, for the owner."""
        ticket = KEY_PREFIX + secrets.token_urlsafe(24)
        self.redactor.add(ticket)
        self._tickets = {digest: end for digest, end in self._tickets.items() if end > self.now()}
        self._tickets[digest_of(ticket)] = self.now() + TICKET_S
        return ticket

    async def redeem_ticket(self, ticket: str) -> str:
        """Start a browser session.

        Returns:
            The secret of the session, for an HttpOnly cookie.

        Raises:
            Unauthenticated: The ticket is unknown, used or older than five minutes.
        """
        if self._tickets.pop(digest_of(ticket), 0.0) <= self.now():
            raise Unauthenticated(
                "The ticket is unknown, used or older than five minutes.",
                hint="`corsac open` prints a new address.",
            )
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        self.redactor.add(secret)
        digest, expires_at = digest_of(secret), self.now() + SESSION_S
        row = (digest, OWNER.key_id, OWNER.id, self.now(), expires_at)
        await self.database.write(lambda db: db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row).fetchall())
        self._sessions[digest] = _Credential(digest, OWNER, expires_at)
        return secret

    async def end_session(self, secret: str) -> None:
        """Forget a browser session."""
        digest = digest_of(secret)
        self._sessions.pop(digest, None)
        await self.database.write(
            lambda db: db.execute("DELETE FROM sessions WHERE token_sha256 = ?", (digest,)).fetchall()
        )
