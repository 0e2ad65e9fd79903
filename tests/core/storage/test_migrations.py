import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from structlog.testing import CapturingLogger

from corsac.core.storage.database import MIGRATIONS, Database, DatabaseUnusable
from corsac.core.storage.migrations import SchemaTooNew, known_migrations

SECOND = "CREATE TABLE second(n INTEGER) STRICT; INSERT INTO second SELECT amount FROM usage; DROP TABLE sessions;"
THIRD = "ALTER TABLE second ADD COLUMN word TEXT; UPDATE second SET word = 'third';"
ROW = "INSERT INTO usage VALUES ('2026-01-01', 'alice', 'key', 'tts', 'characters', 7)"

Package = Callable[..., str]
NEWEST = len(known_migrations(MIGRATIONS))
"""The schema of this version; tests add steps behind it."""


def step(n: int, name: str) -> str:
    """What the file of the nth step behind the newest is called, as an argument of `package`."""
    return f"_{NEWEST + n:04}_{name}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes an importable package with migrations."""

    def make(name: str, **files: str) -> str:
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        for file, sql in files.items():
            (folder / f"{file.lstrip('_')}.sql").write_text(sql)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return make


async def migrated(path: Path, *packages: str) -> None:
    database = Database(path, logger=CapturingLogger(), migrations=(*MIGRATIONS, *packages))
    await database.open()
    await database.close()


def values(path: Path, query: str) -> list[object]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    rows = [value for (value,) in connection.execute(query)]
    connection.close()
    return rows


async def test_the_first_schema_is_strict_and_needs_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "corsac.sqlite"
    await migrated(path)
    tables = values(path, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND strict ORDER BY name")
    assert {"api_keys", "artifacts", "config_versions", "sessions", "usage"} <= set(tables)
    lax = "SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict AND name NOT LIKE 'sqlite%'"
    assert values(path, lax) == []
    assert values(path, "PRAGMA user_version") == [NEWEST]
    assert not (tmp_path / "backups").exists()


async def test_an_existing_database_is_backed_up_before_it_is_changed(tmp_path: Path, package: Package) -> None:
    path, backup = tmp_path / "corsac.sqlite", tmp_path / "backups" / f"corsac.schema-{NEWEST}.sqlite"
    await migrated(path)
    values(path, ROW)
    await migrated(
        path, package("later_a", **{step(1, "second"): SECOND}), package("later_b", **{step(2, "third"): THIRD})
    )
    assert values(path, "SELECT n || word FROM second") == ["7third"]
    assert values(backup, "SELECT amount FROM usage") == [7]
    assert values(backup, "PRAGMA user_version") == [NEWEST]
    assert backup.stat().st_mode & 0o777 == 0o600


async def test_a_newer_schema_refuses_to_start_and_says_what_to_do(tmp_path: Path, package: Package) -> None:
    path = tmp_path / "corsac.sqlite"
    await migrated(path, package("newer", **{step(1, "second"): SECOND}))
    with pytest.raises(SchemaTooNew, match=rf"schema {NEWEST + 1}.* up to {NEWEST}") as refused:
        await migrated(path)
    assert refused.value.exit_code == 78
    assert "backups" in (refused.value.hint or "")
    assert values(path, "PRAGMA user_version") == [NEWEST + 1]


@pytest.mark.parametrize(
    ("sql", "error"),
    [("CREATE TABLE half(a); SELECT rubbish;", apsw.SQLError), ("CREATE TABLE half(a); COMMIT;", apsw.AuthError)],
)
async def test_a_step_that_fails_leaves_nothing_behind(
    tmp_path: Path, package: Package, sql: str, error: type[Exception]
) -> None:
    path = tmp_path / "corsac.sqlite"
    await migrated(path)
    with pytest.raises(error):
        await migrated(path, package("failing", **{step(1, "failing"): sql}))
    assert values(path, "SELECT name FROM sqlite_schema WHERE name = 'half'") == []
    assert values(path, "PRAGMA user_version") == [NEWEST]


@pytest.mark.parametrize("number", ["_0001_twice", step(2, "gap")])
def test_numbers_are_used_once_and_without_gaps(package: Package, number: str) -> None:
    with pytest.raises(ValueError, match="numbered"):
        known_migrations((*MIGRATIONS, package(f"numbers{number}", **{number: "SELECT 1"})))


# Forks for each statement: a child opens the database and is killed when SQLite is about to run its nth one.
KILLED = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
import apsw
from structlog.testing import CapturingLogger
from corsac.core.storage.database import MIGRATIONS, Database

root, packages = Path(sys.argv[1]), sys.argv[2:]

def kill_at(n):
    left = [n]
    def trace(*_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    def watch(connection):
        connection.exec_trace = trace
    apsw.connection_hooks.append(watch)

for n in range(200):
    folder = root / f"at-{n:03}"
    shutil.copytree(root / "before", folder)
    child = os.fork()
    if child == 0:
        kill_at(n)
        database = Database(folder / "corsac.sqlite", logger=CapturingLogger(), migrations=(*MIGRATIONS, *packages))
        asyncio.run(database.open())
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("existing", [False, True])
async def test_a_migration_killed_at_any_statement_is_completed_by_the_next_start(
    tmp_path: Path, package: Package, existing: bool
) -> None:
    later = package("killed", **{step(1, "second"): SECOND, step(2, "third"): THIRD})
    (tmp_path / "before").mkdir()
    if existing:
        await migrated(tmp_path / "before" / "corsac.sqlite")
        values(tmp_path / "before" / "corsac.sqlite", ROW)
    command = [sys.executable, "-c", KILLED, str(tmp_path), later]
    subprocess.run(command, check=True, env={"PYTHONPATH": os.pathsep.join((str(tmp_path / "packages"), *sys.path))})
    *killed, _whole = sorted(tmp_path.glob("at-*"))
    assert len(killed) >= 20
    for folder in killed:
        await migrated(folder / "corsac.sqlite", later)
        assert values(folder / "corsac.sqlite", "PRAGMA user_version") == [NEWEST + 2]
        assert values(folder / "corsac.sqlite", "PRAGMA integrity_check") == ["ok"]
        assert values(folder / "corsac.sqlite", "SELECT n || word FROM second") == ["7third"] * existing


async def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be opened"):
        await migrated(tmp_path / "missing" / "corsac.sqlite")
