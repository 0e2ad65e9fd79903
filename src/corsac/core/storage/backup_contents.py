"""What a backup is made of: its manifest, and files that are what the manifest says."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import apsw
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corsac.core.exceptions import Conflict
from corsac.core.storage.connection import DISK_ERRORS
from corsac.core.storage.damage import first_fault
from corsac.core.storage.files import sync, sync_folder

CHUNK_BYTES = 1 << 20
ASK_EVERY_STEPS = 10_000
MANIFEST, DATABASE, SETTINGS = "manifest.json", "corsac.sqlite", "corsac.toml"
PATH = r"^(corsac\.sqlite|corsac\.toml|files/[a-z0-9_-]{1,64}/[0-9a-f]{32}(\.[a-z0-9]{1,16})?)$"


class BackupDamaged(Conflict):
    """The backup is not whole.

    A file of it is missing or not what its manifest says. Take another backup.
    """

    reason = "BACKUP_DAMAGED"


class FolderInUse(Conflict):
    """There is something in this folder already.

    A backup goes into a new folder. Restoring replaces a database only with `--force`, and then keeps the old one in
    the folder `backups`.
    """

    reason = "FOLDER_IN_USE"


class BackedUpFile(BaseModel):
    """One file of a backup; its path is relative to the backup and to the data directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(pattern=PATH)]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Backup(BaseModel):
    """What a backup holds: its manifest.

    Attributes:
        made_at: RFC 3339, UTC.
        schema_version: Of the database.
        files: All files but the manifest.
        lost: Artifacts in the database whose files were gone or changed, and so are not here.
        models: Names of the models that were there; they are pulled again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_at: str
    schema_version: int
    files: tuple[BackedUpFile, ...]
    lost: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.size_bytes for each in self.files)


class BackupStopped(Exception):
    """The backup was called off."""


def verify_backup(folder: Path) -> Backup:
    """Check a backup: all its files against their hashes, and its database.

    Raises:
        BackupDamaged: Something is missing or changed; the detail says what.
    """
    try:
        manifest = Backup.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise BackupDamaged(f"{folder} is no backup: it has no readable {MANIFEST}.") from None
    if DATABASE not in {each.path for each in manifest.files}:
        raise BackupDamaged(f"{folder} is no backup: it has no database.")
    for each in manifest.files:
        path = folder / each.path
        if path.is_symlink() or not path.is_file() or sha256_of(path) != each.sha256:
            raise BackupDamaged(f"The file {each.path} of the backup is missing or changed.")
    check_database(folder / DATABASE)
    return manifest


def check_database(database: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Check a copied database.

    Args:
        database: The copy.
        stopped: Asked now and then; once true, the check ends.

    Raises:
        BackupDamaged: It is not whole.
        BackupStopped: It was called off.
    """
    try:
        connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_progress_handler(stopped, ASK_EVERY_STEPS)
            fault = first_fault(connection)
        finally:
            connection.close()
    except apsw.InterruptError:
        raise BackupStopped from None
    except DISK_ERRORS as error:
        fault = str(error)
    if fault:
        raise BackupDamaged(f"The copied database is damaged: {fault}.", hint="Run `corsac repair`.")


def place_files(source: Path, target: Path, files: Sequence[BackedUpFile]) -> Iterator[bool]:
    """Link or copy files from one tree into another, durably once all were asked for.

    Args:
        source: The tree that has them.
        target: The tree that gets them; its folders are made.
        files: Which.

    Yields:
        For each file whether it was there and what it should be; if not, it is not placed.
    """
    for each in files:
        path = target / each.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield _place(source / each.path, path, each)
    for folder in {(target / each.path).parent for each in files}:
        sync_folder(folder)


def _place(source: Path, path: Path, file: BackedUpFile) -> bool:
    arriving = path.with_name(f".{path.name}.arriving")
    arriving.unlink(missing_ok=True)
    try:
        if file.path == SETTINGS:  # people edit it in place
            copy_file(source, arriving)
        else:
            os.link(source, arriving)
    except FileNotFoundError:
        return False
    except OSError:  # another disk, or one without hard links
        copy_file(source, arriving)
    if sha256_of(arriving) != file.sha256:
        arriving.unlink()
        return False
    arriving.replace(path)
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file and wait until it is on the disk."""
    with source.open("rb") as read, target.open("wb") as written:
        os.fchmod(written.fileno(), 0o600)
        shutil.copyfileobj(read, written, CHUNK_BYTES)
        written.flush()
        sync(written.fileno())


def described(folder: Path, path: str) -> BackedUpFile:
    """A file as it is, for the manifest."""
    return BackedUpFile(path=path, size_bytes=(folder / path).stat().st_size, sha256=sha256_of(folder / path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
