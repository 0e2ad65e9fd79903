"""Generated files: each a file and a row, with an owner and an end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from corsac.core.exceptions import InvalidCursor, NotFound, StorageFailed
from corsac.core.storage.files import disk_errors, require_room, sync_folder, write_atomically
from corsac.core.storage.retention import Kept, Swept, orphans, overdue, stored_files

if TYPE_CHECKING:
    import apsw

    from corsac.core.logging_config import Logger
    from corsac.core.storage.database import Database

MAX_AGE_S = 7 * 86_400.0
MAX_BYTES = 5 << 30
BATCH_ROWS = 200
KIND = re.compile(r"[a-z0-9_-]{1,64}")
SUFFIX = re.compile(r"(\.[a-z0-9]{1,16})?")
INSERT = """INSERT INTO artifacts(id, kind, owner, media_type, name, size_bytes, sha256, created_at, detail)
    VALUES (:id, :kind, :owner, :media_type, :name, :size_bytes, :sha256, :created_at, :detail)"""
SELECT_ONE = """SELECT id, kind, owner, media_type, name, size_bytes, sha256, created_at, detail
    FROM artifacts WHERE id = ? AND kind = ? AND owner = ifnull(?, owner)"""
SELECT_PAGE = """SELECT id, kind, owner, media_type, name, size_bytes, sha256, created_at, detail
    FROM artifacts WHERE kind = ? AND owner = ifnull(?, owner) AND (created_at, id) < (?, ?)
    ORDER BY created_at DESC, id DESC LIMIT ?"""
SELECT_NEWEST_FIRST = """SELECT id, kind, size_bytes, created_at, name FROM artifacts
    ORDER BY created_at DESC, id DESC"""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file.

    Args:
        id: 32 random characters of 0-9 and a-f.
        kind: What it is, for example `audio`; also its folder.
        owner: Id of the principal that it belongs to.
        media_type: For `Content-Type`.
        name: Its file's name.
        size_bytes: Its length.
        sha256: Of the content, in hexadecimal.
        created_at: Seconds since the epoch.
        detail: What its maker wants to know about it later.
        path: Where it is.
    """

    id: str
    kind: str
    owner: str
    media_type: str
    name: str
    size_bytes: int
    sha256: str
    created_at: float
    detail: Mapping[str, Any]
    path: Path


@dataclass(slots=True, weakref_slot=True, eq=False)
class Prepared:
    """A file that is stored, and the unit that writes its row: called in a transaction, it makes the file an artifact.

    Until then it keeps the file from being swept. If it is dropped without its row, the next sweep takes the file.

    Args:
        artifact: What will be there.
    """

    artifact: Artifact

    def __call__(self, db: apsw.Connection) -> None:
        """Write the row."""
        detail = json.dumps(self.artifact.detail, allow_nan=False)
        db.execute(INSERT, {**asdict(self.artifact), "detail": detail})


@dataclass(slots=True)
class ArtifactStore:
    """Keeps generated files as `<root>/<kind>/<id><suffix>`; the rows are the truth about what there is.

    Args:
        root: The data directory's folder `files`.
        database: Keeps the rows.
        logger: Hears of sweeps.
        now: Seconds since the epoch.
        max_age_s: Seconds that an artifact is kept at most.
        max_bytes: Bytes that are kept at most; the oldest go first.
        kept_kinds: Kinds that stay until they are deleted and do not count, for example `voice`.
    """

    root: Path
    database: Database
    logger: Logger
    now: Callable[[], float] = time.time
    max_age_s: float = MAX_AGE_S
    max_bytes: int = MAX_BYTES
    kept_kinds: Collection[str] = ()
    _arriving: WeakValueDictionary[str, Prepared] = field(default_factory=WeakValueDictionary, init=False)
    _putting: set[asyncio.Task[Artifact]] = field(default_factory=set, init=False)

    async def put(
        self,
        kind: str,
        content: bytes,
        *,
        owner: str,
        media_type: str,
        suffix: str,
        detail: Mapping[str, Any],
    ) -> Artifact:
        """Store a file. A caller that is cancelled meanwhile leaves a whole artifact or none.

        Args:
            kind: 1 to 64 characters of a-z, 0-9, underscore and hyphen.
            content: All of it.
            owner: Id of the principal that it belongs to.
            media_type: For `Content-Type`.
            suffix: Of the file's name, for example `.wav`.
            detail: Anything that JSON can say.

        Returns:
            The artifact, durable.

        Raises:
            StorageFull: Too little of the disk would be left free.
            StorageFailed: The disk failed.
        """
        putting = self._put(kind, content, owner=owner, media_type=media_type, suffix=suffix, detail=detail)
        task = asyncio.create_task(putting)
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        return await asyncio.shield(task)

    async def prepare(
        self,
        kind: str,
        content: bytes,
        *,
        owner: str,
        media_type: str,
        suffix: str,
        detail: Mapping[str, Any],
    ) -> Prepared:
        """Store a file whose row is to be written together with others, for example those of a job's item.

        Args, Raises: As `put`.

        Returns:
            The unit that writes the row; keep it until that is durable.
        """
        if not KIND.fullmatch(kind) or not SUFFIX.fullmatch(suffix):
            raise ValueError(f"Not a kind and a suffix: {kind!r}, {suffix!r}.")
        new = secrets.token_hex(16)
        name, now = new + suffix, self.now()
        path = self.root / kind / name
        prepared = Prepared(Artifact(new, kind, owner, media_type, name, len(content), "", now, detail, path))
        self._arriving[new] = prepared
        sha256 = await asyncio.to_thread(_write, path, content)
        prepared.artifact = replace(prepared.artifact, sha256=sha256)
        return prepared

    async def get(self, kind: str, artifact_id: str, owner: str | None) -> Artifact:
        """Find an artifact.

        Args:
            kind: Its kind.
            artifact_id: Its id; any text.
            owner: Whose it has to be; None: anybody's.

        Raises:
            NotFound: There is none, or it is another's: the same answer.
        """

        def query(db: apsw.Connection) -> Artifact | None:
            row = db.execute(SELECT_ONE, (artifact_id, kind, owner)).fetchone()
            found = self._artifact(row) if row else None
            return found if found and found.path.is_file() else None

        found = await self.database.read(query)
        if found is None:
            raise NotFound
        return found

    async def delete(self, kind: str, artifact_id: str, owner: str | None) -> None:
        """Remove an artifact; see `get` for the arguments.

        Raises:
            NotFound: There is none, or it is another's: the same answer.
        """
        found = await self.get(kind, artifact_id, owner)
        await self._remove({found.id: found.path})

    async def usage(self) -> dict[str, int]:
        """Bytes of each kind."""
        query = "SELECT kind, sum(size_bytes) FROM artifacts GROUP BY kind ORDER BY kind"
        rows = await self.database.read(lambda db: db.execute(query).fetchall())
        return {str(kind): int(str(size_bytes)) for kind, size_bytes in rows}

    async def sweep(self) -> Swept:
        """Remove what a crash left half and what has come to its end. Run at start and then now and then."""
        # The order matters: when the rows are read, a file that was listed has its row, or its `put` was
        # under way after the listing, or it is an orphan.
        files = await asyncio.to_thread(stored_files, self.root)
        arriving = frozenset(self._arriving)
        rows = await self.database.read(self._rows)
        unclaimed = await asyncio.to_thread(orphans, files, rows, arriving)
        lost, expired = await asyncio.to_thread(self._ended, rows)
        await asyncio.to_thread(_unlink, unclaimed)
        await self._remove({row.id: row.path for row in (*lost, *expired)})
        swept = Swept(len(unclaimed), len(lost), len(expired))
        if swept != Swept(0, 0, 0):
            self.logger.info("artifacts swept", files=swept.n_files, rows=swept.n_rows, expired=swept.n_expired)
        return swept

    async def list(
        self, kind: str, owner: str | None, *, limit: int, cursor: str = ""
    ) -> tuple[Sequence[Artifact], str]:
        """A page of artifacts, newest first.

        Args:
            kind: Their kind.
            owner: Whose; None: everybody's.
            limit: How many at most, from 1.
            cursor: What the page before returned; empty: the first page.

        Returns:
            The artifacts and the cursor of the next page, empty after the last one.

        Raises:
            InvalidCursor: No page returned this.
        """
        before, _, last_id = cursor.partition(":")
        try:
            position = (float(before), last_id) if cursor else (math.inf, "")
        except ValueError:
            raise InvalidCursor from None
        values = (kind, owner, *position, limit + 1)
        rows = await self.database.read(lambda db: db.execute(SELECT_PAGE, values).fetchall())
        page = [self._artifact(row) for row in rows[:limit]]
        return page, f"{page[-1].created_at!r}:{page[-1].id}" if len(rows) > limit else ""

    def _artifact(self, row: Sequence[Any]) -> Artifact:
        path = self.root / row[1] / row[4]
        *columns, detail = row
        return Artifact(*columns, json.loads(detail), path)  # type: ignore[call-arg]

    async def _put(self, kind: str, content: bytes, **about: Any) -> Artifact:
        prepared = await self.prepare(kind, content, **about)
        try:
            await self.database.write(prepared)
        except StorageFailed:
            raise  # the row may be there all the same; the next sweep knows
        except BaseException:
            await asyncio.to_thread(_unlink, [prepared.artifact.path])
            raise
        return prepared.artifact

    def _rows(self, db: apsw.Connection) -> Sequence[Kept]:
        rows: Iterable[Sequence[Any]] = db.execute(SELECT_NEWEST_FIRST)
        return [Kept(row[0], row[1], row[2], row[3], self.root / row[1] / row[4]) for row in rows]

    def _ended(self, rows: Sequence[Kept]) -> tuple[Sequence[Kept], Sequence[Kept]]:
        lost = [row for row in rows if not row.path.exists()]
        counted = [row for row in rows if row.kind not in self.kept_kinds]
        return lost, overdue(counted, self.now() - self.max_age_s, self.max_bytes)

    async def _remove(self, paths: Mapping[str, Path]) -> None:
        """Remove rows, then their files: a crash in between leaves orphans, which the next sweep finds."""
        ids = [(artifact_id,) for artifact_id in paths]
        for start in range(0, len(ids), BATCH_ROWS):
            await self.database.write(partial(_forget, ids=ids[start : start + BATCH_ROWS]))
        await asyncio.to_thread(_unlink, paths.values())


def _write(path: Path, content: bytes) -> str:
    """Store a file.

    Returns:
        Its SHA-256.
    """
    folder = path.parent
    with disk_errors():
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(folder.parent)
        require_room(folder, len(content))
        write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _forget(db: apsw.Connection, ids: Sequence[tuple[str]]) -> None:
    db.executemany("DELETE FROM artifacts WHERE id = ?", ids)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
