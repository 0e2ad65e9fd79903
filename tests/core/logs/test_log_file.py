import errno
import gzip
import os
import stat
from pathlib import Path

import orjson
import pytest

from corsac.core.logs.file import LogFile

NOON = 1_778_587_200.0
DAY_S = 86_400.0


class Disk:
    """Takes `free` bytes and then fails as a full disk does: with half a write."""

    def __init__(self) -> None:
        self.free: float = float("inf")

    def write(self, fd: int, block: memoryview) -> int:
        if self.free <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_written = os.write(fd, block[: int(min(self.free, len(block)))])
        self.free -= n_written
        return n_written


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def line(number: int, size: int = 100) -> bytes:
    text = orjson.dumps({"time": "2026-05-12T12:00:00.000Z", "n": number})
    return text + b" " * (size - 1 - len(text)) + b"\n"


def numbers(directory: Path) -> list[int]:
    """What all files hold, oldest first."""
    found = []
    for path in [*sorted(directory.glob("corsac-*.log.gz")), directory / "corsac.log"]:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += [orjson.loads(each)["n"] for each in text.splitlines()]
    return found


def test_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "logs")
    assert file.write([line(1), line(2)]) == 0
    assert file.path.read_bytes() == line(1) + line(2)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_full_file_is_rotated_and_compressed_without_losing_a_line(tmp_path: Path) -> None:
    file = LogFile(tmp_path, max_file_bytes=1000, max_total_bytes=100_000, now=Clock())
    for first in range(0, 60, 6):
        assert file.write([line(number) for number in range(first, first + 6)]) == 0
    assert numbers(tmp_path) == list(range(60))
    assert len(list(tmp_path.glob("*.gz"))) == 5
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz"] * 5 + [".log"]


def test_all_files_together_stay_under_the_bound(tmp_path: Path) -> None:
    file = LogFile(tmp_path, max_file_bytes=4000, max_total_bytes=12_000)
    for number in range(200):
        file.write([orjson.dumps({"n": number, "noise": os.urandom(900).hex()}) + b"\n"])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12_000
    assert b'"n":199' in file.path.read_bytes()


def test_a_file_is_rotated_when_its_first_line_is_a_day_old_even_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    LogFile(tmp_path, now=clock).write([line(1)])
    clock.now += DAY_S + 1
    LogFile(tmp_path, now=clock).write([line(2)])
    assert (tmp_path / "corsac.log").read_bytes() == line(2)
    assert [path.name for path in tmp_path.glob("*.gz")] == ["corsac-20260513T120001Z-000000.log.gz"]


def test_rotated_files_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    clock = Clock()
    file = LogFile(tmp_path, now=clock, max_age_s=3 * DAY_S)
    for number in range(10):
        file.write([line(number)])
        clock.now += DAY_S + 1
    assert numbers(tmp_path) == [6, 7, 8, 9]


def test_a_full_disk_loses_whole_lines_and_recovers(tmp_path: Path) -> None:
    disk = Disk()
    file = LogFile(tmp_path, write=disk.write)
    disk.free = 250
    assert file.write([line(number) for number in range(5)]) == 3
    assert file.write([line(5)]) == 1
    disk.free = 1000
    assert file.write([line(6)]) == 0
    assert numbers(tmp_path) == [0, 1, 6]


def test_a_directory_that_cannot_be_made_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    file = LogFile(tmp_path / "logs")
    assert file.write([line(1), line(2)]) == 2
    (tmp_path / "logs").unlink()
    assert file.write([line(3)]) == 0


@pytest.mark.parametrize("deed", ["rename", "unlink", "replace"])
def test_somebody_elses_rotation_is_noticed(tmp_path: Path, deed: str) -> None:
    file = LogFile(tmp_path, now=Clock())
    file.write([line(1)])
    if deed == "unlink":
        file.path.unlink()
    else:
        file.path.rename(tmp_path / "taken")
    if deed == "replace":
        file.path.write_bytes(line(2))
    assert file.write([line(3)]) == 0
    assert file.path.read_bytes() == (line(2) if deed == "replace" else b"") + line(3)


def test_half_a_line_of_a_killed_process_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "corsac.log").write_bytes(line(1) + b'{"half')
    LogFile(tmp_path, now=Clock()).write([line(2)])
    assert (tmp_path / "corsac.log").read_bytes() == line(1) + b'{"half\n' + line(2)


def test_an_interrupted_compression_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "corsac-20260512T120000Z-000000.log").write_bytes(line(1))
    (tmp_path / "corsac-20260512T120000Z-000000.part").write_bytes(b"half")
    LogFile(tmp_path, now=Clock()).write([line(2)])
    assert numbers(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*.part"))


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "corsac.log").symlink_to(tmp_path / "victim")
    assert LogFile(tmp_path).write([line(1)]) == 1
    assert (tmp_path / "victim").read_bytes() == b""


def test_a_bound_without_room_for_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least twice"):
        LogFile(tmp_path, max_file_bytes=1000, max_total_bytes=1999)
