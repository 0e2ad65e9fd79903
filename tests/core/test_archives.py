"""The archive guard: what is refused, with which reason, and that honest archives pass."""

import random
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corsac.core.archives import ArchiveLimits, open_archive
from corsac.core.exceptions import CorsacError, Invalid, NotFound, TooLarge


def written(path: Path, *entries, **options) -> Path:
    """A zip of (name or ZipInfo, contents) pairs, by the library."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for name, contents in entries:
            archive.writestr(name, contents)
    return path


def local(name: bytes, crc: int, packed: int, size: int, method: int = 8, flags: int = 0) -> bytes:
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 33, crc, packed, size, len(name), 0) + name


def central(name: bytes, crc: int, packed: int, size: int, offset: int, method: int = 8, extra: bytes = b"") -> bytes:
    numbers = (20, 20, 0, method, 0, 33, crc, packed, size, len(name), len(extra), 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *numbers) + name + extra


def ended(body: bytes, records: list[bytes]) -> bytes:
    directory = b"".join(records)
    sizes = (len(records), len(records), len(directory), len(body), 0)
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *sizes)


def deflated(contents: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(contents) + squeeze.flush()


def quoted_overlap(n_entries: int, kernel: bytes) -> bytes:
    """Each entry quotes the local headers of all that follow in stored blocks, and ends in one shared kernel."""
    squeezed = deflated(kernel)
    name = b"%04d" % (n_entries - 1)
    parts = [local(name, zlib.crc32(kernel), len(squeezed), len(kernel)) + squeezed]
    listed = [(name, zlib.crc32(kernel), len(squeezed), len(kernel), len(parts[0]))]
    contents, packed = kernel, len(squeezed)
    for n in reversed(range(n_entries - 1)):
        quoted = parts[-1][: 30 + 4]
        block = struct.pack("<BHH", 0, len(quoted), len(quoted) ^ 0xFFFF)
        contents, packed = quoted + contents, packed + len(block) + len(quoted)
        name = b"%04d" % n
        parts.append(local(name, zlib.crc32(contents), packed, len(contents)) + block)
        listed.append((name, zlib.crc32(contents), packed, len(contents), len(parts[-1])))
    body, records = b"".join(reversed(parts)), []
    offset = 0
    for name, crc, packed, size, length in reversed(listed):
        records.append(central(name, crc, packed, size, offset))
        offset += length
    return ended(body, records)


def read_all(path: Path, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    with open_archive(path, limits) as archive:
        return {each.name: b"".join(archive.read(each.name)) for each in archive.members}


def reason_of(path: Path, limits: ArchiveLimits | None = None) -> str:
    with pytest.raises((Invalid, TooLarge)) as refused:
        read_all(path, limits)
    too_large = refused.value.reason in {"ARCHIVE_RATIO", "ARCHIVE_NESTED", "ARCHIVE_TOO_MANY_ENTRIES"}
    assert refused.value.status == (413 if too_large else 422)
    return refused.value.reason


def test_members_are_listed_and_streamed(tmp_path):
    contents = random.Random(1).randbytes(2_560_000)
    path = written(tmp_path / "a", ("dir/", b""), ("dir/ü.bin", contents), ("empty", b""))
    with open_archive(path) as archive:
        assert [(each.name, each.size_bytes) for each in archive.members] == [("dir/ü.bin", 2_560_000), ("empty", 0)]
        assert b"".join(archive.read("dir/ü.bin")) == contents
        assert list(archive.read("empty")) == []
        with pytest.raises(NotFound):
            next(archive.read("../dir/ü.bin"))


def test_archives_written_to_a_pipe_pass(tmp_path):
    class Pipe:
        def __init__(self, file):
            self.write, self.flush = file.write, file.flush

    with (tmp_path / "a").open("wb") as file, zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 5000)
        with archive.open("b", "w", force_zip64=True) as member:
            member.write(b"y" * 5000)
    with open_archive(tmp_path / "a") as archive:
        assert b"".join(archive.read("b")) == b"y" * 5000


def test_a_comment_and_large_headers_pass(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.comment = b"made by somebody"
        with archive.open("big", "w", force_zip64=True) as member:
            member.write(b"y" * 5000)
    with open_archive(tmp_path / "a") as archive:
        assert b"".join(archive.read("big")) == b"y" * 5000


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = written(tmp_path / "a", ("zeros", bytes(20_000_000)))
    with pytest.raises(CorsacError) as refused, open_archive(path):
        pytest.fail("opened")
    assert (refused.value.reason, refused.value.status) == ("ARCHIVE_RATIO", 413)
    assert "100" in refused.value.detail


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ArchiveLimits(total_bytes=99_999), "ARCHIVE_RATIO"),
        (ArchiveLimits(ratio_from_bytes=100), "ARCHIVE_RATIO"),
        (ArchiveLimits(entries=9), "ARCHIVE_TOO_MANY_ENTRIES"),
    ],
)
def test_limits_are_arguments(tmp_path, limits, reason):
    path = written(tmp_path / "a", *((str(n), bytes(10_000)) for n in range(10)))
    assert reason_of(path, limits) == reason
    with open_archive(path) as archive:
        assert len(archive.members) == 10


def test_many_small_bombs_are_refused_as_a_whole(tmp_path):
    path = written(tmp_path / "a", *((str(n), bytes(60_000)) for n in range(200)))
    assert reason_of(path) == "ARCHIVE_RATIO"


def test_a_quoted_overlap_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(quoted_overlap(1000, bytes(1_000_000)))
    assert path.stat().st_size < 150_000
    with zipfile.ZipFile(path) as lenient:
        assert sum(each.file_size for each in lenient.infolist()) > 10**9
    assert reason_of(path, ArchiveLimits(ratio=10**9, total_bytes=10**12)) == "ARCHIVE_OVERLAP"


def test_entries_that_share_all_bytes_are_refused(tmp_path):
    body = local(b"a", zlib.crc32(b"abc"), 3, 3, method=0) + b"abc"
    records = [central(name, zlib.crc32(b"abc"), 3, 3, 0, method=0) for name in (b"b", b"a")]
    (tmp_path / "a").write_bytes(ended(body, records))
    assert reason_of(tmp_path / "a") == "ARCHIVE_OVERLAP"


def test_one_hundred_thousand_entries_are_refused_unread(tmp_path):
    directory = b"".join(central(b"%05d" % n, 0, 0, 0, 0, method=0) for n in range(100_000))
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 100_000, 100_000, len(directory), 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (tmp_path / "a").write_bytes(directory + record + locator + end)
    assert reason_of(tmp_path / "a") == "ARCHIVE_TOO_MANY_ENTRIES"
    (tmp_path / "a").write_bytes(directory + record + locator + end.replace(b"\xff\xff\xff\xff", b"\1\0\1\0"))
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


def test_more_entries_than_announced_are_refused(tmp_path):
    records = [central(b"%05d" % n, 0, 0, 0, 0, method=0) for n in range(1000)]
    whole = bytearray(ended(b"", records))
    struct.pack_into("<2H", whole, len(whole) - 14, 1, 1)
    (tmp_path / "a").write_bytes(whole)
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


def test_nested_archives_are_refused_by_name_and_by_contents(tmp_path):
    inner = tmp_path / "0.zip"
    written(inner, ("x", b"x"))
    for depth in range(1, 5):
        written(tmp_path / f"{depth}.zip", (f"{depth}.zip", (tmp_path / f"{depth - 1}.zip").read_bytes()))
    assert reason_of(tmp_path / "4.zip") == "ARCHIVE_NESTED"
    hidden = written(tmp_path / "hidden", ("picture.png", inner.read_bytes()))
    assert reason_of(hidden) == "ARCHIVE_NESTED"
    with open_archive(hidden, ArchiveLimits(nested=True)) as archive:
        assert b"".join(archive.read("picture.png")) == inner.read_bytes()


@pytest.mark.parametrize(
    ("one", "other"), [("a", "a"), ("dir/A", "dir/a"), ("é", "é"), ("STRASSE", "straße"), ("a", "a/")]
)
def test_names_that_some_system_takes_for_equal_are_refused(tmp_path, one, other):
    assert reason_of(written(tmp_path / "a", (one, b""), (other, b""))) == "ARCHIVE_DUPLICATE_NAMES"


UNSAFE = [
    "../x",
    "/x",
    "C:\\x",
    "c:x",
    "a\\..\\..\\x",
    "a/../../x",
    "a//x",
    "./x",
    "..",
    "a\nb",
    "\x1b[31m",
    "x" * 1025,
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused(tmp_path, name):
    assert reason_of(written(tmp_path / "a", (name, b"x"))) == "ARCHIVE_UNSAFE_ENTRY"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_name_with_a_zero_byte_is_refused(tmp_path):
    body = local(b"a\0b", 0, 0, 0, method=0)
    (tmp_path / "a").write_bytes(ended(body, [central(b"a\0b", 0, 0, 0, 0, method=0)]))
    assert reason_of(tmp_path / "a") == "ARCHIVE_UNSAFE_ENTRY"


@pytest.mark.parametrize("mode", [0o120777, 0o060644, 0o020644, 0o010644, 0o140644, 0o040755])
def test_links_devices_pipes_and_folders_in_disguise_are_refused(tmp_path, mode):
    entry = zipfile.ZipInfo("innocent.txt")
    entry.external_attr = mode << 16
    assert reason_of(written(tmp_path / "a", (entry, b"/etc/passwd"))) == "ARCHIVE_UNSAFE_ENTRY"


@pytest.mark.parametrize(
    "extra",
    [struct.pack("<2H", 0x0D, 16) + bytes(12) + b"link", struct.pack("<2HIHI2H", 0x756E, 14, 0, 0o120777, 4, 0, 0)],
)
def test_links_in_extra_fields_are_refused(tmp_path, extra):
    entry = zipfile.ZipInfo("innocent.txt")
    entry.extra = extra
    assert reason_of(written(tmp_path / "a", (entry, b"x"))) == "ARCHIVE_UNSAFE_ENTRY"


def altered(path: Path, at: int, form: str, *values: int) -> Path:
    whole = bytearray(path.read_bytes())
    struct.pack_into(form, whole, at, *values)
    path.write_bytes(whole)
    return path


# Of an archive with the one entry "x", 3 bytes, stored: local header at 0, directory at 34, end record at 81.
LIES = [
    (14, "<I", 7), (18, "<I", 2), (22, "<I", 1 << 30), (30, "<B", 121), (8, "<H", 8), (6, "<H", 8), (26, "<H", 40000),
    (0, "<I", 0), (54, "<I", 2), (58, "<I", 1 << 30), (76, "<I", 1), (44, "<H", 12), (50, "<I", 7), (40, "<H", 99),
    (81 + 8, "<H", 2), (81 + 10, "<H", 2), (81 + 12, "<I", 46), (81 + 16, "<I", 33), (81 + 4, "<H", 1),
    (81 + 20, "<H", 1), (58, "<I", 0xFFFFFFFF), (31, "<B", 0), (33, "<B", 0),
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(tmp_path, lie):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("x", b"abc")
    assert reason_of(altered(tmp_path / "a", *lie)) == "ARCHIVE_INVALID"


def test_sizes_that_lie_in_the_zip64_field_are_refused(tmp_path):
    wide = struct.pack("<2H2Q", 1, 16, 1 << 40, 3)
    record = central(b"x", zlib.crc32(b"abc"), 0xFFFFFFFF, 0xFFFFFFFF, 0, method=0, extra=wide)
    (tmp_path / "a").write_bytes(ended(local(b"x", zlib.crc32(b"abc"), 3, 3, method=0) + b"abc", [record]))
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


@pytest.mark.parametrize("place", ["before", "behind", "between"])
def test_junk_is_refused(tmp_path, place):
    path = written(tmp_path / "a", ("x", b"abc"), ("y", b"abc"))
    whole = path.read_bytes()
    middle = whole.index(b"PK\1\2")
    path.write_bytes({"before": b"#!/bin/sh\n" + whole, "behind": whole + b"junk", "between": whole[:middle] + b"junk" + whole[middle:]}[place])  # fmt: skip # noqa: E501
    assert reason_of(path) == "ARCHIVE_INVALID"


@pytest.mark.parametrize(
    "contents", [b"", b"PK", b"no zip at all" * 100, b"PK\5\6" + bytes(10), b"\x1f\x8b" + bytes(99)]
)
def test_what_is_no_zip_is_refused(tmp_path, contents):
    (tmp_path / "a").write_bytes(contents)
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_bound_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a", "w", method) as archive:
        archive.writestr("x", bytes(10_000_000))
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


def test_encrypted_entries_are_refused(tmp_path):
    path = written(tmp_path / "a", ("x", b"abc"))
    at = path.read_bytes().index(b"PK\1\2") + 8
    assert reason_of(altered(altered(path, at, "<H", 1), 6, "<H", 1)) == "ARCHIVE_ENCRYPTED"


def test_contents_longer_than_announced_are_refused(tmp_path):
    squeezed = deflated(b"abc" * 1000)
    body = local(b"x", zlib.crc32(b"abc"), len(squeezed), 3) + squeezed
    (tmp_path / "a").write_bytes(ended(body, [central(b"x", zlib.crc32(b"abc"), len(squeezed), 3, 0)]))
    assert reason_of(tmp_path / "a") == "ARCHIVE_INVALID"


@given(noise=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_archive_is_refused_in_words_or_read_right(tmp_path_factory, noise):
    contents = {"a.txt": b"abc" * 99, "b/c.bin": bytes(range(256))}
    path = written(tmp_path_factory.mktemp("noise") / "a", *contents.items())
    whole = bytearray(path.read_bytes())
    for at, value in noise:
        whole[at % len(whole)] = value
    path.write_bytes(whole)
    try:
        read = read_all(path)
    except (Invalid, TooLarge):
        return
    assert set(read.values()) == set(contents.values())
