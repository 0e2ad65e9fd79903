import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from structlog.testing import CapturingLogger

from corsac.core.exceptions import ShuttingDown, StorageFailed, StorageFull
from corsac.core.storage.database import Database, DatabaseUnusable

INSERT = "INSERT INTO usage VALUES ('2026-01-01', 'alice', 'key', 'tts', ?, 1)"


def record(unit: str) -> Callable[[apsw.Connection], int]:
    """Writes one row."""

    def write(db: apsw.Connection) -> int:
        db.execute(INSERT, (unit,))
        return db.changes()

    return write


def fail_commit(db: apsw.Connection) -> None:
    db.execute(INSERT, ("lost",))
    db.set_commit_hook(lambda: True)


async def recorded(database: Database) -> list[str]:
    return await database.read(
        lambda db: [str(unit) for (unit,) in db.execute("SELECT unit FROM usage ORDER BY rowid")]
    )


@pytest.fixture
def held(database: Database) -> Iterator[Callable[[], None]]:
    """Holds the writer, so that what is written next waits and shares a commit, until it is called."""
    event = threading.Event()
    database._writer.submit(lambda db: event.wait(10))  # type: ignore[union-attr]
    yield event.set
    event.set()


class FailingDisk(apsw.VFS):
    """The system's files, whose fsync of the write-ahead log can be made to fail."""

    def __init__(self) -> None:
        self.fails, self.base = False, apsw.vfs_names()[0]
        super().__init__("failing", base=self.base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "FailingFile":  # noqa: N802
        return FailingFile(self, name, flags)


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.disk = disk
        super().__init__(disk.base, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self.disk.fails:
            raise apsw.IOError(os.strerror(errno.EIO))
        super().xSync(flags)


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    disk = FailingDisk()
    yield disk
    disk.unregister()


async def test_a_write_is_visible_to_readers_and_to_the_next_start(
    database: Database, tmp_path: Path, logger: CapturingLogger
) -> None:
    assert await database.write(record("characters")) == 1
    assert await recorded(database) == ["characters"]
    await database.close()
    again = Database(tmp_path / "corsac.sqlite", logger=logger)
    await again.open()
    assert await recorded(again) == ["characters"]
    await again.close()


async def test_every_commit_waits_for_the_disk(database: Database) -> None:
    def pragmas(db: apsw.Connection) -> list[object]:
        return [db.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")]

    assert await database.write(pragmas) == ["wal", 2, 1]


async def test_writes_that_wait_together_share_one_commit(database: Database, held: Callable[[], None]) -> None:
    commits: list[str] = []

    def count(db: apsw.Connection) -> None:
        db.set_commit_hook(lambda: bool(commits.append("commit")))  # type: ignore[func-returns-value]

    units = [count, *(record(str(n)) for n in range(100))]
    writes = asyncio.gather(*(database.write(unit) for unit in units))
    await asyncio.sleep(0)
    held()
    await writes
    assert commits == ["commit"]
    assert len(await recorded(database)) == 100


async def test_a_unit_that_raises_is_rolled_back_alone(database: Database, held: Callable[[], None]) -> None:
    def broken(db: apsw.Connection) -> None:
        db.execute(INSERT, ("broken",))
        raise ValueError("mine")

    results = asyncio.gather(
        *(database.write(unit) for unit in (record("before"), broken, record("after"))), return_exceptions=True
    )
    await asyncio.sleep(0)
    held()
    before, error, after = await results
    assert (before, after, type(error)) == (1, 1, ValueError)
    assert await recorded(database) == ["before", "after"]


async def test_a_cancelled_wait_does_not_cancel_the_unit(database: Database, held: Callable[[], None]) -> None:
    waiting = asyncio.ensure_future(database.write(record("cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    held()
    await database.write(record("next"))
    assert waiting.cancelled()
    assert await recorded(database) == ["cancelled", "next"]


@pytest.mark.parametrize(
    "statement",
    ["COMMIT", "END", "BEGIN", "ROLLBACK", "COMMIT -- mine", "RELEASE corsac_unit", "ROLLBACK TO corsac_unit"],
)
async def test_a_unit_cannot_end_its_transaction(database: Database, statement: str) -> None:
    def unit(db: apsw.Connection) -> None:
        db.execute(INSERT, ("early",))
        db.execute(statement)

    with pytest.raises(apsw.AuthError):
        await database.write(unit)
    assert await recorded(database) == []


async def test_a_unit_may_use_savepoints_of_its_own(database: Database) -> None:
    def unit(db: apsw.Connection) -> None:
        db.execute("SAVEPOINT mine")
        db.execute(INSERT, ("undone",))
        db.execute("ROLLBACK TO mine; RELEASE mine")
        db.execute(INSERT, ("kept",))

    await database.write(unit)
    assert await recorded(database) == ["kept"]


async def test_a_cursor_that_a_unit_leaves_open_does_no_harm(database: Database) -> None:
    def unit(db: apsw.Connection) -> object:
        return next(db.execute(INSERT + " RETURNING unit", ("half read",)))

    assert await database.write(unit) == ("half read",)
    assert await recorded(database) == ["half read"]


@pytest.mark.parametrize("way", ["read", "write"])
async def test_returning_an_open_cursor_is_refused(database: Database, way: str) -> None:
    with pytest.raises(TypeError, match="fetchall"):
        await getattr(database, way)(lambda db: db.execute("SELECT * FROM usage"))


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), KeyboardInterrupt()])
async def test_nothing_that_a_unit_raises_ends_the_writer(database: Database, error: BaseException) -> None:
    def unit(db: apsw.Connection) -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await database.write(unit)
    assert await database.write(record("next")) == 1


async def test_a_slow_unit_is_logged(tmp_path: Path, logger: CapturingLogger) -> None:
    clock = [0.0]
    database = Database(tmp_path / "slow.sqlite", logger=logger, monotonic=lambda: clock[0])
    await database.open()
    await database.write(lambda db: clock.append(clock.pop() + 0.05))
    assert logger.calls == []
    await database.write(lambda db: clock.append(clock.pop() + 0.06))
    await database.close()
    assert [(call.method_name, call.kwargs["duration_ms"]) for call in logger.calls] == [("warning", 60)]


async def test_a_failed_commit_fails_its_group_and_only_that(database: Database, held: Callable[[], None]) -> None:
    group = asyncio.gather(database.write(record("same group")), database.write(fail_commit), return_exceptions=True)
    await asyncio.sleep(0)
    held()
    assert [type(error) for error in await group] == [StorageFailed, StorageFailed]
    assert await database.write(record("next group")) == 1
    assert await recorded(database) == ["next group"]


async def test_it_is_unhealthy_from_a_failed_commit_until_one_succeeds(tmp_path: Path, logger: CapturingLogger) -> None:
    database = Database(tmp_path / "sick.sqlite", logger=logger, probe_s=60)
    await database.open()
    assert database.healthy
    with pytest.raises(StorageFailed):
        await database.write(fail_commit)
    assert not database.healthy
    await database.write(record("well"))
    assert database.healthy
    await database.close()
    assert not database.healthy


async def test_a_failing_fsync_is_never_acknowledged(disk: FailingDisk, database: Database) -> None:
    await database.write(record("before"))
    disk.fails = True
    for n in range(3):
        with pytest.raises(StorageFailed, match="could not store"):
            await database.write(record(f"unknown {n}"))
    with pytest.raises(StorageFailed, match="left alone"):
        await database.write(record("untried"))
    assert not database.healthy
    assert "untried" not in await recorded(database)
    assert "before" in await recorded(database)


async def test_it_heals_by_itself_when_the_disk_does(disk: FailingDisk, database: Database) -> None:
    disk.fails = True
    with pytest.raises(StorageFailed):
        await database.write(record("lost"))
    await asyncio.sleep(0.12)
    assert not database.healthy
    disk.fails = False
    async with asyncio.timeout(5):
        while not database.healthy:
            await asyncio.sleep(0.01)


async def test_a_full_disk_fails_what_does_not_fit_and_lets_the_rest_through(
    database: Database, held: Callable[[], None]
) -> None:
    def limit(db: apsw.Connection) -> None:
        db.pragma("max_page_count", int(str(db.pragma("page_count"))) + 4)

    def large(db: apsw.Connection) -> None:
        db.execute("INSERT INTO usage SELECT hex(randomblob(99999)), '', '', '', '', 1")

    units = (limit, record("before"), large, record("after"))
    results = asyncio.gather(*(database.write(unit) for unit in units), return_exceptions=True)
    await asyncio.sleep(0)
    held()
    _, before, error, after = await results
    assert (before, after, type(error)) == (1, 1, StorageFull)
    assert await recorded(database) == ["before", "after"]


async def test_a_query_sees_one_snapshot(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def query(db: apsw.Connection) -> list[int]:
        counts = [db.execute("SELECT count(*) FROM usage").fetchall()[0][0]]
        asyncio.run_coroutine_threadsafe(database.write(record("meanwhile")), loop).result(5)
        return [*counts, db.execute("SELECT count(*) FROM usage").fetchall()[0][0]]  # type: ignore[list-item]

    assert await database.read(query) == [0, 0]
    assert await recorded(database) == ["meanwhile"]


async def test_readers_cannot_write_and_survive_what_a_query_raises(database: Database) -> None:
    for _ in range(5):
        with pytest.raises(StorageFailed):
            await database.read(record("by a reader"))
        with pytest.raises(ZeroDivisionError):
            await database.read(lambda db: 1 // 0)
    assert await recorded(database) == []


async def test_closing_stores_what_is_in_line_and_refuses_what_comes_later(
    database: Database, held: Callable[[], None]
) -> None:
    waiting = asyncio.ensure_future(database.write(record("in line")))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await database.write(record("late"))
    held()
    assert await waiting == 1
    await closing


async def test_a_file_that_is_no_database_is_refused_with_the_way_out(tmp_path: Path, logger: CapturingLogger) -> None:
    (tmp_path / "corsac.sqlite").write_bytes(b"rubbish" * 1000)
    database = Database(tmp_path / "corsac.sqlite", logger=logger)
    with pytest.raises(DatabaseUnusable, match="not a database") as refused:
        await database.open()
    assert refused.value.exit_code == 74
    assert "backups" in (refused.value.hint or "")


async def test_only_its_owner_can_read_the_database(database: Database, tmp_path: Path) -> None:
    await database.write(record("secret"))
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("corsac.sqlite*")} == {
        "corsac.sqlite": 0o600,
        "corsac.sqlite-wal": 0o600,
        "corsac.sqlite-shm": 0o600,
    }


WRITER = """
import asyncio, sys
from pathlib import Path
from structlog.testing import CapturingLogger
from corsac.core.storage.database import Database

INSERT = "INSERT INTO usage VALUES ('2026-01-01', 'alice', 'key', 'tts', ?, 1)"

async def write(database, worker):
    for n in range(1_000_000):
        await database.write(lambda db: db.execute(INSERT, (f"{worker}-{n}",)).fetchall())
        sys.stdout.write(f"{worker}-{n}\\n")
        sys.stdout.flush()

async def main():
    database = Database(Path(sys.argv[1]), logger=CapturingLogger())
    await database.open()
    await asyncio.gather(*(write(database, worker) for worker in range(20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("n_lines", [1, 500, 3000])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, logger: CapturingLogger, n_lines: int) -> None:
    path = tmp_path / "corsac.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(n_lines)]
        child.kill()
        acknowledged += [line for line in child.stdout if line.endswith("\n")]
    database = Database(path, logger=logger)
    await database.open()
    assert {line.strip() for line in acknowledged} <= set(await recorded(database))
    assert await database.read(lambda db: db.pragma("integrity_check")) == "ok"
    await database.close()
