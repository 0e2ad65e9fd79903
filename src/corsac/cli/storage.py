"""`corsac backup`, `corsac restore` and `corsac repair`: the data directory, put aside and put right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from corsac.cli.models import opened
from corsac.core.exceptions import NotFound
from corsac.core.storage.backup import make_backup, newest_backup, stamp
from corsac.core.storage.backup_contents import BackupDamaged
from corsac.core.storage.damage import find_damage
from corsac.core.storage.lock import DataDirectory
from corsac.core.storage.repair import repair_database
from corsac.core.storage.restore import restore_backup
from corsac.settings import Settings


def backup(
    folder: Annotated[
        Path | None, typer.Argument(help="A new folder; else one in `backups`, named by the time.")
    ] = None,
) -> None:
    """Back up the database, the generated files and corsac.toml; a running server goes on."""
    directory = DataDirectory(Settings().data_directory)
    if not directory.database.exists():
        raise NotFound(f"{directory.root} has no database, so there is nothing to back up.")
    if directory.read_announcement() is None and (damage := find_damage(directory.database)):
        raise BackupDamaged(f"The database is damaged: {damage}.", hint="`corsac repair` saves what can be read.")
    target = (folder or directory.backups / f"manual-{stamp(time.time())}").absolute()
    made = make_backup(directory, target)
    print(f"{target}: {len(made.files)} files, {made.size_bytes / 1e6:.1f} MB, verified")
    for path in made.lost:
        print(f"left out, because it is gone or changed: {path}")


def restore(
    folder: Annotated[Path, typer.Argument(help="The backup's folder.")],
    force: Annotated[bool, typer.Option(help="Replace a database that is there; it is kept in `backups`.")] = False,
) -> None:
    """Put a verified backup into the data directory. No server may be running on it."""
    with _locked() as directory:
        restored = restore_backup(folder, directory, force=force)
        print(f"{directory.root} is as it was on {restored.made_at}: {len(restored.files)} files")
        for name in sorted(set(restored.models) - set(opened().installed())):
            print(f"a model is missing: corsac models pull {name}")


def repair() -> None:
    """Replace a damaged database by what can be read of it. No server may be running on it."""
    with _locked() as directory:
        repaired = repair_database(directory)
        if repaired is None:
            print(f"{directory.database} is whole; nothing was changed")
            return
        print(f"{directory.database} was damaged: {repaired.damage}")
        for table, n_rows in sorted(repaired.rows.items()):
            gaps = repaired.gaps.get(table, 0)
            print(f"  {table:24} {n_rows} rows saved" + (f", {gaps} places could not be read" if gaps else ""))
        if repaired.n_refused:
            print(f"  {repaired.n_refused} rows were left out, because they break the schema")
        print(f"the damaged files are kept in {repaired.aside}")
        if newest := newest_backup(directory.backups):
            print(f"to go back to the newest backup instead: corsac restore {newest} --force")


@contextmanager
def _locked() -> Iterator[DataDirectory]:
    directory = DataDirectory(Settings().data_directory)
    directory.create()
    directory.lock()
    try:
        yield directory
    finally:
        directory.unlock()
