"""Backups of a data directory: made while the server runs, verified, and put back.

<folder>/manifest.json    what the backup holds, each file with its hash; written last
<folder>/corsac.sqlite    the database as it was at one moment
<folder>/corsac.toml      if there is one
<folder>/files/…          the artifacts that the database names

Files never change once they are written, so a backup on the same disk shares them by hard links and takes little room.
Models are only named, as they can be pulled again; the owner's token and the logs are left out.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from corsac.core.exceptions import StorageFull
from corsac.core.storage.backup_contents import (
    DATABASE,
    MANIFEST,
    SETTINGS,
    BackedUpFile,
    Backup,
    BackupDamaged,
    BackupStopped,
    FolderInUse,
    check_database,
    described,
    place_files,
)
from corsac.core.storage.connection import DISK_ERRORS, Connection
from corsac.core.storage.files import disk_errors, require_room, sync_folder, write_atomically
from corsac.core.storage.migrations import back_up

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger
    from corsac.core.storage.lock import DataDirectory

DAY_S = 86_400.0
N_DAILY = 3
TIME = "%Y%m%dT%H%M%SZ"


def make_backup(
    directory: DataDirectory,
    target: Path,
    *,
    now: Callable[[], float] = time.time,
    stopped: Callable[[], bool] = lambda: False,
) -> Backup:
    """Back up a data directory, also under a running server: it only reads, and the server writes on meanwhile.

    Args:
        directory: What to back up.
        target: A folder that is made; it appears whole or not at all.
        now: Seconds since the epoch.
        stopped: Asked between steps; once true, the backup is called off and removed.

    Returns:
        The manifest, after every file was read again and the database was checked.

    Raises:
        BackupDamaged: The copy is not whole, because the database is not: `corsac repair`.
        StorageFull: The disk has too little room.
        StorageFailed: The disk failed.
        FolderInUse: `target` is there already.
    """

    def go_on() -> None:
        if stopped():
            raise BackupStopped

    if target.exists():
        raise FolderInUse(f"{target} is there already.", hint="Name a new folder.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_errors():
            partial.mkdir(mode=0o700, parents=True)
            manifest = _fill(directory, partial, now, go_on, stopped)
            write_atomically(partial / MANIFEST, manifest.model_dump_json(indent=1).encode())
            partial.rename(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _fill(
    directory: DataDirectory,
    folder: Path,
    now: Callable[[], float],
    go_on: Callable[[], None],
    stopped: Callable[[], bool],
) -> Backup:
    require_room(folder, directory.database.stat().st_size)
    schema, artifacts = _copy_database(directory.database, folder / DATABASE, go_on, stopped)
    if folder.stat().st_dev != directory.root.stat().st_dev:  # else they are linked
        require_room(folder, sum(each.size_bytes for each in artifacts))
    files, lost = [described(folder, DATABASE)], list[BackedUpFile]()
    if (directory.root / SETTINGS).exists():
        write_atomically(folder / SETTINGS, (directory.root / SETTINGS).read_bytes())
        files.append(described(folder, SETTINGS))
    for each, placed in zip(artifacts, place_files(directory.root, folder, artifacts), strict=True):
        go_on()
        (files if placed else lost).append(each)
    return Backup(
        made_at=datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        schema_version=schema,
        files=tuple(files),
        lost=tuple(each.path for each in lost),
        models=tuple(_models(directory.models)),
    )


def newest_backup(folder: Path) -> Path | None:
    """The newest whole backup in a folder by its name's time; its files are not checked."""
    found = [each.parent for each in folder.glob(f"*-{'[0-9]' * 8}T{'[0-9]' * 6}Z/{MANIFEST}")]
    return max(found, key=lambda each: each.name.rpartition("-")[2], default=None)


def stamp(at: float) -> str:
    """A time as names of backups have it, `20260131T235959Z`, from seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).strftime(TIME)


async def daily_backup(
    directory: DataDirectory, *, logger: Logger, now: Callable[[], float] = time.time, n_kept: int = N_DAILY
) -> Path | None:
    """Make the day's backup in the folder `backups` unless there is one, and remove all daily ones but the newest.

    Run every hour or so; cancelled, it ends within a step.

    Args:
        directory: What to back up.
        logger: Hears of it.
        now: Seconds since the epoch.
        n_kept: How many daily backups are kept.

    Returns:
        The new backup, or None.
    """
    stop = threading.Event()

    def made() -> tuple[Path, Backup] | None:
        if any(each.name > f"daily-{stamp(now() - DAY_S)}" for each in _daily(directory.backups)):
            return None
        target = directory.backups / f"daily-{stamp(now())}"
        manifest = make_backup(directory, target, now=now, stopped=stop.is_set)
        for each in _daily(directory.backups)[:-n_kept]:
            shutil.rmtree(each)
        return target, manifest

    try:
        outcome = await asyncio.to_thread(made)
    finally:
        stop.set()
    if outcome is None:
        return None
    target, manifest = outcome
    logger.info("backed up", backup=target.name, n_files=len(manifest.files), size_bytes=manifest.size_bytes)
    if manifest.lost:
        logger.warning("files that the database names are gone or changed", n_files=len(manifest.lost))
    return target


def _daily(folder: Path) -> list[Path]:
    return sorted(each.parent for each in folder.glob(f"daily-*/{MANIFEST}"))


def _copy_database(
    source: Path, target: Path, go_on: Callable[[], None], stopped: Callable[[], bool]
) -> tuple[int, list[BackedUpFile]]:
    """Copy the database at one moment; returns its schema and the files that its artifacts name."""
    try:
        reader = Connection(source, writable=False)
        try:
            # One snapshot, so that the writer can go on and the copy need not begin again when it does.
            reader.execute("BEGIN; SELECT 1 FROM sqlite_schema").fetchall()
            back_up(reader, target, between=go_on)
        finally:
            reader.close(True)
        check_database(target, stopped)
        copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            copy.pragma("journal_mode", "delete")  # one file, whatever opens it
            rows = copy.execute("SELECT kind, name, size_bytes, sha256 FROM artifacts ORDER BY kind, name").fetchall()
            schema = int(str(copy.pragma("user_version")))
        finally:
            copy.close()
    except apsw.FullError as error:
        raise StorageFull from error
    except DISK_ERRORS as error:
        raise BackupDamaged(f"The database cannot be copied: {error}.", hint="Run `corsac repair`.") from error
    named = ((f"files/{kind}/{name}", size_bytes, sha256) for kind, name, size_bytes, sha256 in rows)
    return schema, [BackedUpFile(path=path, size_bytes=int(str(size)), sha256=str(s)) for path, size, s in named]


def _models(folder: Path) -> Iterator[str]:
    for manifest in sorted((folder / "manifests").glob("*.json")):
        try:
            yield str(json.loads(manifest.read_bytes())["name"])
        except (ValueError, KeyError, TypeError):
            continue  # the model store does not count it either
