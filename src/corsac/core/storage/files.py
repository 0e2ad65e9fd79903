"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from corsac.core.exceptions import StorageFailed, StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
BROKEN = frozenset({errno.EIO, errno.EROFS})
FLOOR_SHARE = 0.05
FLOOR_BYTES = 1 << 30


def write_atomically(path: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Write a file so that a crash or power loss leaves the old one or the new one, whole.

    Blocks for as long as the disk takes to store it.

    Args:
        path: Where it will be; the folder exists. A file that is there is replaced.
        content: All of it, or pieces in order.
        mode: Permissions, whatever the umask.

    Raises:
        StorageFull: The disk or the quota is full; the old file is untouched.
        StorageFailed: The disk failed or is read-only.
        OSError: Anything else, for example a missing folder.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.writelines((content,) if isinstance(content, bytes) else content)
                file.flush()
                sync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Say which errors of the system inside the block are the disk's.

    Raises:
        StorageFull: The disk or the quota is full.
        StorageFailed: The disk failed or is read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull from error
        if error.errno in BROKEN:
            raise StorageFailed from error
        raise


def sync(descriptor: int) -> None:
    """Wait until what was written to a file or folder is on the disk."""
    if sys.platform == "darwin":
        # fsync there only reaches the drive's cache (fsync(2) on macOS).
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries, for example a rename, are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, size_bytes: int) -> None:
    """Refuse early what would leave the disk too full for the database, and so for deleting.

    The floor is 5 % of the disk, at most 1 GiB.

    Args:
        folder: Any folder on the disk.
        size_bytes: What is about to be written.

    Raises:
        StorageFull: Less than the floor would be left.
    """
    disk = shutil.disk_usage(folder)
    if disk.free - size_bytes < min(disk.total * FLOOR_SHARE, FLOOR_BYTES):
        raise StorageFull("Too little of the disk would be left free.")
