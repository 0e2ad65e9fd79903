"""The database's schema as numbered steps, from `0001_first.sql` on, each applied whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import apsw

from corsac.core.exceptions import StartRefused
from corsac.core.storage.connection import Connection
from corsac.core.storage.files import sync, sync_folder

FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
BACKUP_PAGES = 1000


class SchemaTooNew(StartRefused):
    """The database was made by a newer version.

    Exit code 78: install that version or a newer one, or restore the backup from before its first start.
    """

    exit_code = 78


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One step of the schema.

    Args:
        number: The schema's version after it, from 1.
        sql: Its statements, without BEGIN and COMMIT.
    """

    number: int
    sql: str


def known_migrations(packages: Sequence[str]) -> list[Migration]:
    """The steps in the packages' files, in order.

    Args:
        packages: Import names of packages with files like `0001_first.sql`; they share one numbering.

    Raises:
        ValueError: The numbers are not 1, 2, 3 …, each once.
    """
    found = sorted(
        Migration(int(match[1]), file.read_text(encoding="utf-8"))
        for package in packages
        for file in resources.files(package).iterdir()
        if (match := FILE_NAME.fullmatch(file.name))
    )
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"Migrations are numbered 1, 2, 3 …, each once; found {numbers} in {packages}.")
    return found


def migrate(connection: Connection, packages: Sequence[str], backups: Path) -> None:
    """Bring a database to the newest schema. Killed at any point, it goes on from there at the next start.

    Args:
        connection: Writable, outside a transaction.
        packages: See `known_migrations`.
        backups: Folder that gets a copy of an existing database before it is changed.

    Raises:
        SchemaTooNew: The database has steps that this version does not know.
    """
    migrations = known_migrations(packages)
    version = int(str(connection.pragma("user_version")))
    if version > len(migrations):
        raise SchemaTooNew(
            f"The database has schema {version}; this version of corsac knows those up to {len(migrations)}.",
            hint=f"Install the version of corsac that last used it, or restore a backup from {backups}.",
        )
    if 0 < version < len(migrations):
        back_up(connection, backups / f"corsac.schema-{version}.sqlite")
    for migration in migrations[version:]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.run(partial(_apply, sql=migration.sql))
            connection.pragma("user_version", migration.number)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _apply(db: apsw.Connection, sql: str) -> None:
    db.execute(sql).fetchall()


def back_up(connection: apsw.Connection, target: Path, between: Callable[[], None] = lambda: None) -> None:
    """Copy a database while it is open.

    Args:
        connection: Open on the database.
        target: The copy; replaced as a whole when the new one is on the disk.
        between: Called after each step of 1000 pages; may raise to end it.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    copy = apsw.Connection(str(partial))
    try:
        # Ends with a commit to the copy, which SQLite syncs.
        with copy.backup("main", connection, "main") as pages:
            while not pages.done:
                pages.step(BACKUP_PAGES)
                sync(descriptor)  # little by little: one sync of everything would hold up the commits of others
                between()
    finally:
        copy.close()
        os.close(descriptor)  # not before: it would give SQLite's locks away
    partial.replace(target)
    sync_folder(target.parent)
