"""Whether a database is whole, asked before anything writes to it. No server is running on it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import apsw

from corsac.core.storage.connection import DISK_ERRORS, Connection

WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
INDEX_HEADER_BYTES = 48


def find_damage(path: Path) -> str | None:
    """What is wrong with a database, or None. Reads all of it.

    Finds what SQLite itself takes for granted: that the write-ahead log still has every commit that was acknowledged
    before the last server was killed. A changed value inside a row is not found: SQLite keeps no sums of pages.

    Args:
        path: The database; the log is beside it. Its directory's lock is held, or no server runs.

    Raises:
        OSError: It cannot be read.
    """
    if lost := lost_commits(path):
        return f"{lost} pages of acknowledged commits are missing from its write-ahead log"
    if not path.exists() or path.stat().st_size == 0:
        return None  # a new one
    try:
        connection = Connection(path, writable=False)
        try:
            return first_fault(connection, "quick_check")
        finally:
            connection.close()
    except DISK_ERRORS as error:
        return str(error)


def first_fault(connection: apsw.Connection, check: str = "integrity_check") -> str | None:
    """The first thing that SQLite finds wrong, or None.

    Args:
        connection: Open on the database.
        check: `integrity_check`, or `quick_check`, which does not compare indexes with their tables.
    """
    found = str(connection.execute(f"PRAGMA {check}(1)").get)
    return None if found == "ok" else " ".join(found.split())


def lost_commits(path: Path) -> int:
    """Pages that were committed to the write-ahead log and are no longer in it, truncated or changed.

    The log's index outlives a killed server and says how far the log was committed; SQLite rebuilds it from the log
    at the next start and would not notice. After a power failure the index may be older than the log, never newer:
    a commit is synced to the log before it is put into the index.

    Source: https://sqlite.org/walformat.html, sections 2.1 and 4.2.
    """
    log, index = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    if not log.exists() or not index.exists():
        return 0
    with index.open("rb") as file:
        header, copy, backfill = file.read(INDEX_HEADER_BYTES), file.read(INDEX_HEADER_BYTES), file.read(4)
    if len(backfill) < 4 or header != copy or not header[12]:
        return 0  # a crash met it being written, or nobody ever did
    committed = int.from_bytes(header[16:20], sys.byteorder)
    in_database = int.from_bytes(backfill, sys.byteorder)
    if committed <= in_database:
        return 0
    frames = log.read_bytes()
    if len(frames) >= WAL_HEADER_BYTES and frames[16:24] != header[32:40]:
        return 0  # the salts differ: the index is of an earlier log
    return max(0, committed - _valid_frames(frames, committed))


def _valid_frames(log: bytes, at_most: int) -> int:
    """Frames from the beginning whose sums are right."""
    if len(log) < WAL_HEADER_BYTES:
        return 0
    magic, _, page_bytes = struct.unpack_from(">III", log)
    order = ">" if magic & 1 else "<"
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    sums = _sums(log[:24], order, (0, 0))
    for n in range(at_most):
        start = WAL_HEADER_BYTES + n * frame_bytes
        frame = log[start : start + frame_bytes]
        if len(frame) < frame_bytes or frame[8:16] != log[16:24]:
            return n
        sums = _sums(frame[FRAME_HEADER_BYTES:], order, _sums(frame[:8], order, sums))
        if sums != struct.unpack_from(">II", frame, 16):
            return n
    return at_most


def _sums(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum, continued over `content`, whose length is a multiple of 8 bytes."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
