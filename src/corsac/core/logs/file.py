"""The log on disk: one growing file, rotated, compressed and bounded."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import orjson

NAME = "corsac.log"
_STAMP = "%Y%m%dT%H%M%SZ"


class LogFile:
    """Appends lines to `corsac.log` and never raises for what the disk does: it says how many lines were lost.

    A full file is renamed to `corsac-<UTC time>-<number>.log` and compressed to `….log.gz`. The oldest go when all
    together are too large, or too old. Belongs to one thread.

    Args:
        directory: Made when the first line comes.
        max_file_bytes: Size at which the file is rotated.
        max_total_bytes: Most bytes of all files; while one is being compressed, its compressed copy comes on top.
        rotate_after_s: Age at which the file is rotated, seconds.
        max_age_s: Age at which a rotated file is deleted, seconds since its rotation.
        now: Seconds since the epoch.
        write: Writes to a descriptor like `os.write`.

    Raises:
        ValueError: `max_total_bytes` has no room for two files.
    """

    place = "file"

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int = 16 << 20,
        max_total_bytes: int = 256 << 20,
        rotate_after_s: float = 86_400.0,
        max_age_s: float = 30 * 86_400.0,
        now: Callable[[], float] = time.time,
        write: Callable[[int, memoryview], int] = os.write,
    ) -> None:
        if max_total_bytes < 2 * max_file_bytes:
            raise ValueError("max_total_bytes must be at least twice max_file_bytes.")
        self.directory = directory
        self.path = directory / NAME
        self._max_file_bytes = max_file_bytes
        self._max_rotated_bytes = max_total_bytes - max_file_bytes
        self._rotate_after_s = rotate_after_s
        self._max_age_s = max_age_s
        self._now = now
        self._write = write
        self._fd = -1
        self._size = 0
        self._began = 0.0

    def write(self, lines: Sequence[bytes]) -> int:
        """Append lines.

        Args:
            lines: Each ends in its only newline.

        Returns:
            How many of them were lost: the disk is full, or fails.
        """
        n_done = n_lost = 0
        try:
            while n_done < len(lines):
                self._make_room(len(lines[n_done]))
                n = self._n_that_fit(lines, n_done)
                n_lost += self._append(b"".join(lines[n_done : n_done + n]))
                n_done += n
        except OSError:
            return n_lost + len(lines) - n_done
        return n_lost

    def close(self) -> None:
        """Close the file; the next line would open it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _n_that_fit(self, lines: Sequence[bytes], first: int) -> int:
        size, n = self._size + len(lines[first]), 1
        for line in lines[first + 1 :]:
            size += len(line)
            if size > self._max_file_bytes:
                break
            n += 1
        return n

    def _make_room(self, n_bytes: int) -> None:
        if self._fd >= 0:
            self._notice_others()
        if self._fd < 0:
            self._open()
            self._tidy()
        full = self._size + n_bytes > self._max_file_bytes
        old = self._now() - self._began >= self._rotate_after_s
        if self._size and (full or old):
            self.close()
            os.rename(self.path, self._free_name())
            self._open()
            self._tidy()

    def _notice_others(self) -> None:
        # Somebody else's rotation may have renamed, deleted or cut the file.
        own = os.fstat(self._fd)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            self.close()
            return
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            self.close()
        self._size = own.st_size

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._began = self._first_time() if self._size else self._now()
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            # The process was killed in the middle of a line.
            self._append(b"\n")

    def _first_time(self) -> float:
        head = os.pread(self._fd, 1 << 16, 0).partition(b"\n")[0]
        try:
            return datetime.fromisoformat(orjson.loads(head)["time"]).timestamp()
        except (ValueError, KeyError, TypeError):
            return self._now()

    def _append(self, block: bytes) -> int:
        """Write whole lines; what does not fit is taken back to the last whole one. Returns lines lost."""
        view, n_written = memoryview(block), 0
        try:
            while n_written < len(block):
                n_written += self._write(self._fd, view[n_written:])
        except OSError:
            kept = block.rfind(b"\n", 0, n_written) + 1
            try:
                os.ftruncate(self._fd, self._size + kept)
                self._size += kept
            except OSError:
                # A file that cannot even be cut gets a newline when it is opened again.
                self.close()
            return block.count(b"\n", kept)
        self._size += len(block)
        return 0

    def _free_name(self) -> Path:
        stamp = datetime.fromtimestamp(self._now(), UTC).strftime(_STAMP)
        number = 0
        while any((self.directory / f"corsac-{stamp}-{number:06d}{end}").exists() for end in (".log", ".log.gz")):
            number += 1
        return self.directory / f"corsac-{stamp}-{number:06d}.log"

    def _tidy(self) -> None:
        """Compress what is rotated, and delete the oldest until the rest fits."""
        for part in self.directory.glob("corsac-*.part"):
            part.unlink(missing_ok=True)
        self._delete_oldest()
        for plain in sorted(self.directory.glob("corsac-*.log")):
            # Without room for the copy the file stays as it is until the next rotation.
            with suppress(OSError):
                _compress(plain)
        self._delete_oldest()

    def _delete_oldest(self) -> None:
        sizes: dict[Path, int] = {}
        for path in sorted(self.directory.glob("corsac-*.log*")):
            with suppress(FileNotFoundError):  # Deleted by somebody else meanwhile.
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self._max_rotated_bytes and self._now() - _rotated_at(path) < self._max_age_s:
                break
            with suppress(OSError):  # One that cannot be deleted must not stop the log.
                path.unlink(missing_ok=True)
                total -= size


def _compress(plain: Path) -> None:
    part = plain.with_suffix(".part")
    try:
        with plain.open("rb") as source, gzip.open(part, "wb", compresslevel=5) as target:
            part.chmod(0o600)
            shutil.copyfileobj(source, target, 1 << 16)
        part.rename(plain.with_suffix(".log.gz"))
    except OSError:
        part.unlink(missing_ok=True)
        raise
    plain.unlink(missing_ok=True)


def _rotated_at(path: Path) -> float:
    try:
        return datetime.strptime(path.name[7:23], _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
