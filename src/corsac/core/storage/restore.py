"""A backup, or a repaired database, in the place of the present one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from corsac.core.storage.backup import stamp
from corsac.core.storage.backup_contents import (
    DATABASE,
    Backup,
    BackupDamaged,
    FolderInUse,
    copy_file,
    place_files,
    verify_backup,
)
from corsac.core.storage.files import disk_errors, require_room, sync_folder

if TYPE_CHECKING:
    from corsac.core.storage.lock import DataDirectory


def restore_backup(folder: Path, directory: DataDirectory, *, force: bool = False) -> Backup:
    """Put a backup in the place of a data directory's database and files. Its lock is held by the caller.

    Killed in between, it is run again: the database is replaced last.

    Args:
        folder: The backup.
        directory: Where it goes; its folders exist.
        force: Whether a database that is there may be replaced. It is kept as `backups/replaced-<time>`.

    Returns:
        The manifest of what was restored.

    Raises:
        BackupDamaged: It is not whole; nothing was changed.
        FolderInUse: There is a database already.
        StorageFull, StorageFailed: The disk is full or failed.
    """
    manifest = verify_backup(folder)
    if directory.database.exists() and not force:
        raise FolderInUse(f"{directory.root} has a database already.", hint="`--force` replaces it.")
    with disk_errors():
        require_room(directory.root, manifest.size_bytes)
        if not all(place_files(folder, directory.root, [each for each in manifest.files if each.path != DATABASE])):
            raise BackupDamaged("A file of the backup changed meanwhile.")
        fresh = directory.database.with_suffix(".restored")
        copy_file(folder / DATABASE, fresh)
        replace_database(directory, fresh, "replaced")
    return manifest


def replace_database(directory: DataDirectory, fresh: Path, why: str, now: Callable[[], float] = time.time) -> Path:
    """Put a new database in the place of the present one, which is kept. The directory's lock is held.

    Args:
        directory: Has the database.
        fresh: The new one, on the same disk, synced and closed.
        why: Begins the name of the folder in `backups` that the old one goes to.
        now: Seconds since the epoch.

    Returns:
        The folder with the old one.
    """
    directory.backups.mkdir(mode=0o700, exist_ok=True)
    aside = Path(mkdtemp(prefix=f"{why}-{stamp(now())}-", dir=directory.backups))
    if directory.database.exists():
        os.link(directory.database, aside / DATABASE)
    # The log has to go before the new database comes: SQLite would play it into that one.
    for suffix in ("-wal", "-shm"):
        beside = directory.database.with_name(directory.database.name + suffix)
        if beside.exists():
            beside.replace(aside / beside.name)
    sync_folder(aside)
    sync_folder(directory.root)
    fresh.replace(directory.database)
    sync_folder(directory.root)
    return aside
