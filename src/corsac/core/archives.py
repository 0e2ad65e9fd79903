"""The archive guard: zip files from outside, listed and streamed without trusting a byte of them.

Nothing is extracted to a path that an archive names: a caller asks for one member and gets its bytes. Every
byte of an accepted file belongs to exactly one entry, the directory or its end record, and both descriptions
of an entry agree, so no two readers can see different contents in it.
"""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from corsac.core.archive_errors import (
    ArchiveDuplicateNames,
    ArchiveEncrypted,
    ArchiveInvalid,
    ArchiveNested,
    ArchiveOverlap,
    ArchiveRatio,
    ArchiveTooManyEntries,
    ArchiveUnsafeEntry,
)
from corsac.core.archive_layout import check_count, check_layout, read_end_record
from corsac.core.exceptions import NotFound

__all__ = [
    "Archive",
    "ArchiveDuplicateNames",
    "ArchiveEncrypted",
    "ArchiveInvalid",
    "ArchiveLimits",
    "ArchiveNested",
    "ArchiveOverlap",
    "ArchiveRatio",
    "ArchiveTooManyEntries",
    "ArchiveUnsafeEntry",
    "Member",
    "open_archive",
]

BLOCK_BYTES = 1 << 20
ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
METHODS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # the others inflate without a bound on one step's output
NESTED_SUFFIXES = frozenset({".7z", ".bz2", ".gz", ".jar", ".rar", ".tar", ".tgz", ".whl", ".xz", ".zip", ".zst"})
NESTED_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!\x1a", b"\xfd7zXZ")
MAX_NAME_BYTES = 1024
UNREADABLE = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError)
DAMAGED = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much an archive may hold.

    Args:
        ratio: Bytes that one packed byte may become, for each entry and for the whole.
        total_bytes: Bytes of all entries together.
        entries: Files and folders.
        ratio_from_bytes: Entries up to this size may have any ratio: an empty table packs a thousandfold.
        nested: Whether archives inside the archive are tolerated; they are never opened.
    """

    ratio: int = 100
    total_bytes: int = 1 << 30
    entries: int = 10_000
    ratio_from_bytes: int = 1 << 16
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Args:
        name: Relative, with `/` between its parts; still a stranger's word, never part of a path.
        size_bytes: Its unpacked size.
    """

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that passed every check which needs no unpacking. Made by `open_archive`."""

    limits: ArchiveLimits
    _zip: zipfile.ZipFile
    _entries: dict[str, zipfile.ZipInfo]

    @property
    def members(self) -> tuple[Member, ...]:
        """Its files, in the directory's order."""
        return tuple(Member(name, entry.file_size) for name, entry in self._entries.items())

    def read(self, name: str) -> Iterator[bytes]:
        """The contents of one member, in blocks of up to 1 MiB.

        Raises:
            NotFound: No such member.
            ArchiveInvalid: Its contents are damaged; what was yielded before must be thrown away.
            ArchiveNested: It is an archive, whatever its name says.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound("The archive has no file of this name.")
        received = 0
        longer = copy(entry)
        longer.file_size += 1  # zipfile would cut off what goes beyond the announced size, and say nothing
        try:
            with self._zip.open(longer) as source:
                while block := source.read(BLOCK_BYTES):
                    if not received and not self.limits.nested and block.startswith(NESTED_MAGIC):
                        raise ArchiveNested()
                    received += len(block)
                    if received > entry.file_size:
                        raise ArchiveInvalid("An entry is larger than the archive's directory says.")
                    yield block
        except DAMAGED as error:
            raise ArchiveInvalid("The contents of an entry are damaged.") from error
        if received != entry.file_size:
            raise ArchiveInvalid("An entry is smaller than the archive's directory says.")


@contextmanager
def open_archive(path: Path, limits: ArchiveLimits | None = None) -> Iterator[Archive]:
    """Open a zip file from outside and check all that can be checked without unpacking.

    Args:
        path: The file; its name does not matter.
        limits: How much it may hold.

    Raises:
        ArchiveInvalid, ArchiveOverlap, ArchiveDuplicateNames, ArchiveUnsafeEntry, ArchiveEncrypted: 422.
        ArchiveRatio, ArchiveNested, ArchiveTooManyEntries: 413.

    Example:
        >>> with open_archive(path) as archive:  # doctest: +SKIP
        ...     for block in archive.read("model.onnx"):
        ...         sink.write(block)
    """
    limits = limits or ArchiveLimits()
    with path.open("rb") as file:
        end = read_end_record(file)
        if end.n_entries > limits.entries:
            raise ArchiveTooManyEntries(f"The archive has {end.n_entries} entries; up to {limits.entries} are allowed.")
        check_count(file, end)
        try:
            archive = zipfile.ZipFile(file)
        except UNREADABLE as error:
            raise ArchiveInvalid("The archive's directory cannot be read.") from error
        with archive:
            entries = archive.infolist()
            _check_entries(entries)
            check_layout(file, entries, end.offset)
            _check_growth(entries, limits, packed_bytes=end.offset)
            yield Archive(limits, archive, {each.filename: each for each in entries if not each.is_dir()})


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    """Names, kinds, encryption and methods: what the directory alone tells."""
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        if entry.flag_bits & ENCRYPTED:
            raise ArchiveEncrypted()
        if not _is_safe(name) or not _is_plain(entry):
            raise ArchiveUnsafeEntry()
        if entry.compress_type not in METHODS or (entry.is_dir() and entry.file_size):
            raise ArchiveInvalid("Entries of the archive must be stored or deflated, and folders empty.")
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip("/")
        if key in seen:
            raise ArchiveDuplicateNames()
        seen.add(key)


def _is_safe(name: str) -> bool:
    parts = name.removesuffix("/").split("/")
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        and "\\" not in name
        and not re.match("[A-Za-z]:", name)
        and not any(unicodedata.category(each) in {"Cc", "Cs"} for each in name)
        and not any(part in {"", ".", ".."} for part in parts)
    )


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return kind in ({0, stat.S_IFDIR} if entry.is_dir() else {0, stat.S_IFREG})


def _check_growth(entries: list[zipfile.ZipInfo], limits: ArchiveLimits, packed_bytes: int) -> None:
    for entry in entries:
        if entry.file_size > max(limits.ratio_from_bytes, limits.ratio * entry.compress_size):
            raise ArchiveRatio(f"One packed byte may become {limits.ratio}; an entry of the archive grows more.")
        if Path(entry.filename).suffix.casefold() in NESTED_SUFFIXES and not limits.nested:
            raise ArchiveNested()
    total = sum(entry.file_size for entry in entries)
    if total > max(16 * limits.ratio_from_bytes, limits.ratio * packed_bytes):
        raise ArchiveRatio(f"One packed byte may become {limits.ratio}; the archive as a whole grows more.")
    if total > limits.total_bytes:
        raise ArchiveRatio(f"Unpacked, the archive has {total} bytes; up to {limits.total_bytes} are allowed.")
