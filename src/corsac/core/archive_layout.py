"""Where the parts of a zip file lie. Reads the bytes itself: zipfile is content with gaps, overlaps and lies.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5; the overlaps are those of D. Fifield, "A better zip bomb"
(WOOT 2019).
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, NamedTuple

from corsac.core.archive_errors import ArchiveInvalid, ArchiveOverlap, ArchiveUnsafeEntry

END_RECORD, END_RECORD64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
SATURATED = 0xFFFFFFFF  # a 32-bit field whose value stands in the zip64 extra field
DESCRIPTOR = 1 << 3  # checksum and sizes follow the contents instead of standing before them
UTF8 = 1 << 11
ZIP64_EXTRA, PKWARE_UNIX_EXTRA, ASI_UNIX_EXTRA = 0x0001, 0x000D, 0x756E
MAX_DIRECTORY_ENTRY_BYTES = 4096  # on average: header, name, extra fields and comment


class EndRecord(NamedTuple):
    """What the end of a zip file says: count of entries; offset and length of the directory in bytes."""

    n_entries: int
    offset: int
    length: int


def read_end_record(file: IO[bytes]) -> EndRecord:
    """Where the directory is, which has to end where the end record begins."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 22 - 0xFFFF))
    tail = file.read()
    start = len(tail) - 22
    if tail[start:][:4] != END_RECORD or tail[-2:] != b"\0\0":  # there is a comment
        start = tail.rfind(END_RECORD)
    if start < 0 or len(tail) - start < 22:
        raise ArchiveInvalid("This is not a zip file.")
    *claimed, n_comment = struct.unpack_from("<4x4H2IH", tail, start)
    end = size - len(tail) + start
    if tail[:start][-20:-16] == LOCATOR64:
        end -= 76
        file.seek(max(0, end))
        claimed = _wider(claimed, file.read(56))
    disk, first_disk, here, count, length, offset = claimed
    if disk or first_disk or here != count or offset + length != end or n_comment != len(tail) - start - 22:
        raise ArchiveInvalid("Something stands before, behind or between the archive's parts, or is missing.")
    return EndRecord(count, offset, length)


def _wider(claimed: list[int], record: bytes) -> list[int]:
    """The fields of the zip64 end record, which must equal those of the plain one that are not saturated."""
    if len(record) < 56 or not record.startswith(END_RECORD64):
        raise ArchiveInvalid("The archive's end record is damaged.")
    wide = list(struct.unpack_from("<16x2I4Q", record))
    for old, new, full in zip(claimed, wide, (0xFFFF,) * 4 + (SATURATED,) * 2, strict=True):
        if old not in (new, full):
            raise ArchiveInvalid("The archive's two end records contradict each other.")
    return wide


def check_count(file: IO[bytes], record: EndRecord) -> None:
    """The directory holds as many records as announced; zipfile would read on, however many there are."""
    at = record.offset
    for _ in range(record.n_entries):
        file.seek(at)
        header = file.read(46)
        if len(header) < 46:
            break
        at += 46 + sum(struct.unpack_from("<3H", header, 28))
    if at != record.offset + record.length or record.length > record.n_entries * MAX_DIRECTORY_ENTRY_BYTES:
        raise ArchiveInvalid("The archive's directory is not what its end record says.")


def check_layout(file: IO[bytes], entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Entries lie side by side from the first byte to the directory, and agree with their local headers."""
    ordered = sorted(entries, key=lambda each: each.header_offset)
    for entry, following in pairwise(ordered):
        if entry.header_offset + 30 + len(raw_name(entry)) + entry.compress_size > following.header_offset:
            raise ArchiveOverlap()
    end = 0
    for entry in ordered:
        if entry.header_offset < end:  # seen only now: it began inside the other's extra field
            raise ArchiveOverlap()
        if entry.header_offset > end:
            raise ArchiveInvalid("Something stands before or between the entries of the archive.")
        file.seek(end)
        header = file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise ArchiveInvalid("An entry of the archive has no header.")
        flags, method, crc, packed, size, n_name, n_extra = struct.unpack("<6x2H4x3I2H", header)
        name, extra = file.read(n_name), file.read(n_extra)
        if _has_link(extra) or _has_link(entry.extra):
            raise ArchiveUnsafeEntry()
        if (name, flags, method) != (raw_name(entry), entry.flag_bits, entry.compress_type):
            raise ArchiveInvalid("An entry's header contradicts the archive's directory.")
        if not _sizes_agree(entry, (crc, size, packed), _zip64_sizes(extra)):
            raise ArchiveInvalid("An entry's sizes contradict the archive's directory.")
        end += 30 + n_name + n_extra + entry.compress_size
        if flags & DESCRIPTOR and end <= directory:
            file.seek(end)
            end += _descriptor_bytes(file.read(24), entry)
        if end > directory:
            raise ArchiveInvalid("An entry reaches into the archive's directory.")
    if end != directory:
        raise ArchiveInvalid("Something stands between the entries of the archive and its directory.")


def _sizes_agree(entry: zipfile.ZipInfo, told: tuple[int, int, int], wide: tuple[int, int]) -> bool:
    """Whether a local header says what the directory says, or leaves it to the data descriptor."""
    crc, size, packed = told
    told = (crc, wide[0] if size == SATURATED else size, wide[1] if packed == SATURATED else packed)
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        return False
    if entry.flag_bits & DESCRIPTOR and not any(told):
        return True
    return told == (entry.CRC, entry.file_size, entry.compress_size)


def raw_name(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8 else "cp437")


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]


def _zip64_sizes(extra: bytes) -> tuple[int, int]:
    """Unpacked and packed size from a local header's zip64 field, which always has both."""
    for kind, content in _extra_fields(extra):
        if kind == ZIP64_EXTRA and len(content) >= 16:
            size, packed = struct.unpack_from("<2Q", content)
            return int(size), int(packed)
    return -1, -1


def _has_link(extra: bytes) -> bool:
    """Whether a Unix extra field carries the target of a link, or says that this is no plain file."""
    for kind, content in _extra_fields(extra):
        if kind == PKWARE_UNIX_EXTRA and len(content) > 12:
            return True
        if kind == ASI_UNIX_EXTRA and len(content) >= 14:
            mode = int.from_bytes(content[4:6], "little")
            if len(content) > 14 or stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                return True
    return False


def _descriptor_bytes(following: bytes, entry: zipfile.ZipInfo) -> int:
    """Length of the data descriptor behind an entry: with or without signature, with 32 or 64 bit sizes."""
    values = (entry.CRC, entry.compress_size, entry.file_size)
    forms = ("<3I", "<I2Q") if max(values) <= SATURATED else ("<I2Q",)
    for layout in forms:
        plain = struct.pack(layout, *values)
        for form in (b"PK\x07\x08" + plain, plain):
            if following.startswith(form):
                return len(form)
    raise ArchiveInvalid("What follows an entry contradicts the archive's directory.")
