"""A backup is whole or refused, is made beside the writer, and comes back; damage is noticed and the rest is saved."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
from structlog.testing import CapturingLogger
from tests.conftest import Clock

from corsac.core.storage.artifacts import Artifact, ArtifactStore
from corsac.core.storage.backup import daily_backup, make_backup, newest_backup
from corsac.core.storage.backup_contents import BackupDamaged, BackupStopped, FolderInUse, verify_backup
from corsac.core.storage.damage import find_damage
from corsac.core.storage.database import Database, DatabaseUnusable
from corsac.core.storage.lock import DataDirectory
from corsac.core.storage.repair import NothingToSave, repair_database
from corsac.core.storage.restore import restore_backup

INSERT = "INSERT INTO usage VALUES (?, 'alice', 'key', 'tts', 'characters', 1)"
PAGE = 4096
HOUR_S = 3600
KILLED = """
import asyncio, os, sys
from pathlib import Path
from structlog.testing import CapturingLogger
from corsac.core.storage.database import Database

async def run():
    database = Database(Path(sys.argv[1]), logger=CapturingLogger())
    await database.open()
    for n in range(300):
        await database.write(lambda db: db.execute(sys.argv[2], (f"{n:04}",)).fetchall())
    os.kill(os.getpid(), 9)

asyncio.run(run())
"""


class House:
    """A data directory with an open database and artifacts."""

    def __init__(self, root: Path, logger: CapturingLogger) -> None:
        self.directory = DataDirectory(root)
        self.directory.create()
        self.logger = logger
        self.database = Database(self.directory.database, logger=logger)
        self.artifacts = ArtifactStore(self.directory.files, self.database, logger=logger)

    async def put(self, content: bytes = b"RIFF") -> Artifact:
        return await self.artifacts.put(
            "audio", content, owner="alice", media_type="audio/wav", suffix=".wav", detail={}
        )

    async def use(self, *days: str) -> None:
        for day in days:
            await self.database.write(lambda db, day=day: db.execute(INSERT, (day,)).fetchall())  # type: ignore[misc]

    async def days(self) -> list[str]:
        rows = await self.database.read(lambda db: db.execute("SELECT day FROM usage ORDER BY day").fetchall())
        return [str(day) for (day,) in rows]


@pytest.fixture
async def house(tmp_path: Path, logger: CapturingLogger) -> AsyncIterator[House]:
    house = House(tmp_path / "data", logger)
    await house.database.open()
    yield house
    await house.database.close()


async def moved_in(root: Path, logger: CapturingLogger, backup: Path) -> House:
    """A new directory with what a backup had."""
    house = House(root, logger)
    restore_backup(backup, house.directory)
    await house.database.open()
    return house


def rows(path: Path, query: str) -> list[object]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = [value for (value,) in connection.execute(query)]
    connection.close()
    return found


async def test_a_backup_of_a_running_server_comes_back_elsewhere(
    house: House, tmp_path: Path, logger: CapturingLogger
) -> None:
    artifact = await house.put()
    await house.use("2026-01-01")
    (house.directory.root / "corsac.toml").write_text("[server]\n")
    made = make_backup(house.directory, tmp_path / "backup")
    assert verify_backup(tmp_path / "backup") == made
    again = await moved_in(tmp_path / "again", logger, tmp_path / "backup")
    assert await again.days() == ["2026-01-01"]
    assert (await again.artifacts.get("audio", artifact.id, "alice")).path.read_bytes() == b"RIFF"
    assert (again.directory.root / "corsac.toml").read_text() == "[server]\n"
    await again.database.close()


async def test_the_writer_goes_on_and_the_backup_has_one_moment(house: House, tmp_path: Path) -> None:
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)"
        " INSERT INTO usage SELECT i, hex(randomblob(300)), '', '', '', 0 FROM n"
    )
    await house.database.write(lambda db: db.execute(many).fetchall())
    loop, waits, n_before = asyncio.get_running_loop(), list[float](), len(await house.days())

    def write_meanwhile() -> bool:
        if len(waits) < 3:
            began = time.monotonic()
            asyncio.run_coroutine_threadsafe(house.use(f"2026-{len(waits)}"), loop).result(5)
            waits.append(time.monotonic() - began)
        return False

    target = tmp_path / "backup"
    await asyncio.to_thread(make_backup, house.directory, target, stopped=write_meanwhile)
    assert len(waits) == 3
    assert max(waits) < 1  # far from the 5 s for which a locked database would be waited for
    assert len(await house.days()) == n_before + 3
    assert rows(target / "corsac.sqlite", "SELECT count(*) FROM usage") == [n_before]
    assert rows(target / "corsac.sqlite", "PRAGMA journal_mode") == ["delete"]


async def test_a_backup_that_is_called_off_leaves_nothing(house: House, tmp_path: Path) -> None:
    with pytest.raises(BackupStopped):
        make_backup(house.directory, tmp_path / "backup", stopped=lambda: True)
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


async def test_a_backup_shares_the_files_and_keeps_them_when_they_are_deleted(house: House, tmp_path: Path) -> None:
    artifact = await house.put()
    make_backup(house.directory, tmp_path / "backup")
    assert artifact.path.stat().st_nlink == 2
    await house.artifacts.delete("audio", artifact.id, "alice")
    assert verify_backup(tmp_path / "backup").lost == ()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"FFIR")], ids=["gone", "changed"])
async def test_a_file_that_is_gone_or_changed_is_named_and_left_out(
    house: House, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    whole, broken = await house.put(), await house.put()
    damage(broken.path)
    made = make_backup(house.directory, tmp_path / "backup")
    assert made.lost == (f"files/audio/{broken.name}",)
    assert f"files/audio/{whole.name}" in {each.path for each in made.files}


@pytest.mark.parametrize("name", ["corsac.sqlite", "files", "manifest.json", "path"])
async def test_a_damaged_backup_is_refused_and_changes_nothing(
    house: House, tmp_path: Path, name: str, logger: CapturingLogger
) -> None:
    await house.put()
    backup = tmp_path / "backup"
    make_backup(house.directory, backup)
    if name == "path":
        manifest = backup / "manifest.json"
        manifest.write_text(manifest.read_text().replace("files/audio/", "files/../../"))
    else:
        [victim] = (backup / "files").glob("*/*") if name == "files" else [backup / name]
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0xFF
        victim.unlink()  # it is shared
        victim.write_bytes(content if name != "manifest.json" else b"{}")
    again = House(tmp_path / "again", logger)
    with pytest.raises(BackupDamaged):
        restore_backup(backup, again.directory)
    assert not list(again.directory.root.rglob("*.*"))


async def test_a_database_is_replaced_only_by_force_and_kept(house: House, tmp_path: Path) -> None:
    await house.use("before")
    make_backup(house.directory, tmp_path / "backup")
    await house.use("after")
    await house.database.close()
    with pytest.raises(FolderInUse):
        restore_backup(tmp_path / "backup", house.directory)
    restore_backup(tmp_path / "backup", house.directory, force=True)
    assert rows(house.directory.database, "SELECT day FROM usage") == ["before"]
    [aside] = house.directory.backups.glob("replaced-*/corsac.sqlite")
    assert rows(aside, "SELECT day FROM usage ORDER BY day") == ["after", "before"]


async def test_a_backup_takes_a_new_folder(house: House, tmp_path: Path) -> None:
    with pytest.raises(FolderInUse):
        make_backup(house.directory, tmp_path)


async def test_every_day_has_a_backup_and_the_last_three_stay(house: House, logger: CapturingLogger) -> None:
    clock, made = Clock(), []
    for _ in range(24 * 5 + 1):
        made.append(await daily_backup(house.directory, logger=logger, now=clock))
        clock.now += HOUR_S
    new = [each for each in made if each]
    assert len(new) == 6
    assert sorted(house.directory.backups.iterdir()) == new[-3:]
    assert newest_backup(house.directory.backups) == new[-1]
    assert len([line for line in logger.calls if line.args == ("backed up",)]) == 6


def test_commits_that_a_kill_left_in_the_log_are_no_damage(tmp_path: Path) -> None:
    path = killed(tmp_path)
    assert path.with_name("corsac.sqlite-wal").stat().st_size > PAGE
    with path.with_name("corsac.sqlite-wal").open("ab") as log:
        log.write(b"torn" * 100)
    assert find_damage(path) is None
    assert rows(path, "SELECT count(*) FROM usage") == [300]


def killed(folder: Path) -> Path:
    """A database whose server was killed with 300 commits."""
    path = folder / "corsac.sqlite"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), INSERT], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return path


@pytest.mark.parametrize("how", ["truncated", "emptied", "changed"])
async def test_a_log_that_lost_acknowledged_commits_is_refused_until_it_is_repaired(
    tmp_path: Path, how: str, logger: CapturingLogger
) -> None:
    path = killed(tmp_path)
    log = path.with_name("corsac.sqlite-wal")
    content = log.read_bytes()
    half = len(content) // 2
    log.write_bytes(
        {"truncated": content[:half], "emptied": b"", "changed": content[:half] + b"?" + content[half + 1 :]}[how]
    )
    for _ in range(2):  # looking does not wipe the traces
        with pytest.raises(DatabaseUnusable, match="acknowledged commits") as refused:
            await Database(path, logger=logger).open()
        assert "corsac repair" in (refused.value.hint or "")
    if how == "emptied":
        return
    repaired = repair_database(DataDirectory(tmp_path))
    assert repaired is not None
    assert 0 < repaired.rows["usage"] < 300
    database = Database(path, logger=logger)
    await database.open()
    await database.close()


async def damaged(house: House, n_rows: int, page: Callable[[int], int]) -> None:
    """Overwrite a page of a closed database with many rows."""
    many = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {n_rows}) "
    insert = many + "INSERT INTO usage SELECT printf('%06d', i), hex(zeroblob(200)), '', '', '', i FROM n"
    await house.database.write(lambda db: db.execute(insert).fetchall())
    await house.database.close()
    path = house.directory.database
    where = page(path.stat().st_size // PAGE) * PAGE
    with path.open("r+b") as file:
        file.seek(where)
        file.write(os.urandom(PAGE))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
async def test_a_damaged_page_is_found_at_start_and_everything_else_is_saved(
    house: House, share: float, logger: CapturingLogger
) -> None:
    artifact = await house.put()
    target = house.directory.backups / "daily-20260101T000000Z"
    make_backup(house.directory, target)
    await damaged(house, 2000, lambda n_pages: int(n_pages * share))
    before = house.directory.database.read_bytes()
    with pytest.raises(DatabaseUnusable) as refused:
        await Database(house.directory.database, logger=logger).open()
    assert f"corsac restore {target} --force" in (refused.value.hint or "")
    assert house.directory.database.read_bytes() == before
    repaired = repair_database(house.directory)
    assert repaired is not None
    assert 1900 <= repaired.rows["usage"] <= 2000
    again = House(house.directory.root, logger)
    await again.database.open()
    assert await again.artifacts.get("audio", artifact.id, "alice") == artifact
    await again.database.close()
    assert (repaired.aside / "corsac.sqlite").read_bytes() == before
    assert repair_database(house.directory) is None


async def test_what_is_left_of_a_shortened_file_is_saved(house: House, logger: CapturingLogger) -> None:
    await damaged(house, 2000, lambda n_pages: n_pages - 1)
    path = house.directory.database
    os.truncate(path, path.stat().st_size * 2 // 3 // PAGE * PAGE)
    with pytest.raises(DatabaseUnusable):
        await Database(path, logger=logger).open()
    repaired = repair_database(house.directory)
    assert repaired is not None
    assert 1000 < repaired.rows["usage"] < 2000
    assert find_damage(path) is None


async def test_where_the_first_page_is_gone_only_a_backup_helps(house: House) -> None:
    await damaged(house, 10, lambda _: 0)
    before = house.directory.database.read_bytes()
    with pytest.raises(NothingToSave):
        repair_database(house.directory)
    assert house.directory.database.read_bytes() == before
    assert not list(house.directory.root.glob("*.repaired"))


async def test_rows_whose_parent_was_lost_go_too(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create()
    connection = apsw.Connection(str(directory.database))
    connection.execute(
        "CREATE TABLE parent(n INTEGER PRIMARY KEY, filler TEXT) STRICT;"
        "CREATE TABLE child(parent INTEGER NOT NULL REFERENCES parent(n), i INTEGER, PRIMARY KEY (parent, i))"
        " STRICT, WITHOUT ROWID;"
    )
    with connection:
        for n in range(200):
            connection.execute("INSERT INTO parent VALUES (?, hex(zeroblob(200)))", (n,))
            connection.execute("INSERT INTO child VALUES (?, 0)", (n,))
    [leaf] = [
        page
        for (page,) in connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'parent' AND pagetype = 'leaf' ORDER BY pageno LIMIT 1 OFFSET 3"
        )
    ]
    connection.close()
    with directory.database.open("r+b") as file:
        file.seek((int(str(leaf)) - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    repaired = repair_database(directory)
    assert repaired is not None
    assert 150 < repaired.rows["parent"] == repaired.rows["child"] < 200
    assert repaired.gaps == {"parent": 1}
    assert rows(directory.database, "SELECT count(*) FROM pragma_foreign_key_check") == [0]


async def test_a_backup_on_another_disk_has_copies(house: House) -> None:
    elsewhere = Path("/dev/shm") / f"corsac-test-{os.getpid()}"
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == house.directory.root.stat().st_dev:
        pytest.skip("no second disk")
    artifact = await house.put()
    try:
        make_backup(house.directory, elsewhere)
        assert artifact.path.stat().st_nlink == 1
        verify_backup(elsewhere)
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)
