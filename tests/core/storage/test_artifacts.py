import asyncio
import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import CapturingLogger

from corsac.core.exceptions import InvalidCursor, NotFound, StorageFull
from corsac.core.storage.artifacts import Artifact, ArtifactStore
from corsac.core.storage.database import Database
from corsac.core.storage.retention import Swept

DAY_S = 86_400.0


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, database: Database, logger: CapturingLogger, now: Clock) -> ArtifactStore:
    (tmp_path / "files").mkdir()
    return ArtifactStore(tmp_path / "files", database, logger=logger, now=now, max_bytes=1000, kept_kinds={"voice"})


Put = Callable[..., asyncio.Future[Artifact]]


@pytest.fixture
def put(store: ArtifactStore) -> Put:
    def put(content: bytes = b"sound", *, kind: str = "audio", owner: str = "alice") -> asyncio.Future[Artifact]:
        wav = {"media_type": "audio/wav", "suffix": ".wav"}
        return asyncio.ensure_future(store.put(kind, content, owner=owner, detail={"voice": "joe"}, **wav))

    return put


def stored(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "files").rglob("*") if path.is_file())


async def test_what_is_put_can_be_found_with_everything_about_it(
    store: ArtifactStore, put: Put, now: Clock, tmp_path: Path
) -> None:
    artifact = await put(b"sound")
    assert await store.get("audio", artifact.id, "alice") == artifact
    assert re.fullmatch("[a-z0-9_-]{1,64}", artifact.id)
    assert artifact.path == tmp_path / "files" / "audio" / f"{artifact.id}.wav"
    assert artifact.path.read_bytes() == b"sound"
    assert artifact.sha256 == hashlib.sha256(b"sound").hexdigest()
    assert (artifact.size_bytes, artifact.created_at, artifact.detail) == (5, now(), {"voice": "joe"})
    assert artifact.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("operation", ["get", "delete"])
@pytest.mark.parametrize(("kind", "owner"), [("audio", "bob"), ("image", "alice"), ("image", None)])
async def test_anothers_artifact_looks_like_one_that_does_not_exist(
    store: ArtifactStore, put: Put, operation: str, kind: str, owner: str | None
) -> None:
    artifact = await put()
    with pytest.raises(NotFound) as anothers:
        await getattr(store, operation)(kind, artifact.id, owner)
    with pytest.raises(NotFound) as nobodys:
        await getattr(store, operation)(kind, "../../token", owner)
    assert vars(anothers.value) == vars(nobodys.value)
    assert artifact.path.exists()


async def test_an_administrator_sees_everybodys(store: ArtifactStore, put: Put) -> None:
    artifact = await put(owner="bob")
    assert (await store.get("audio", artifact.id, None)).owner == "bob"


async def test_deleting_removes_file_and_row(store: ArtifactStore, put: Put, tmp_path: Path) -> None:
    artifact = await put()
    await store.delete("audio", artifact.id, "alice")
    assert stored(tmp_path) == []
    assert await store.usage() == {}
    with pytest.raises(NotFound):
        await store.get("audio", artifact.id, "alice")


@pytest.mark.parametrize(("kind", "suffix"), [("../audio", ".wav"), ("", ".wav"), ("audio", "/../../token")])
async def test_a_kind_or_suffix_cannot_leave_the_folder(store: ArtifactStore, kind: str, suffix: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        await store.put(kind, b"", owner="alice", media_type="audio/wav", suffix=suffix, detail={})


async def test_pages_go_from_the_newest_to_the_oldest_of_ones_own(store: ArtifactStore, put: Put, now: Clock) -> None:
    mine = []
    for n in range(5):
        mine.append((await put()).id)
        await put(owner="bob")
        now.seconds += n % 2  # some were made at the same time
    found, cursor = [], ""
    for _ in range(3):
        page, cursor = await store.list("audio", "alice", limit=2, cursor=cursor)
        found.append([artifact.id for artifact in page])
    assert [len(page) for page in found] == [2, 2, 1]
    assert sorted(found[0] + found[1] + found[2]) == sorted(mine)
    assert found[0][0] == mine[-1]
    assert cursor == ""


async def test_a_cursor_that_no_page_returned_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(InvalidCursor):
        await store.list("audio", None, limit=2, cursor="rubbish")


async def test_usage_counts_the_bytes_of_each_kind(store: ArtifactStore, put: Put) -> None:
    for content, kind in ((b"12", "audio"), (b"345", "audio"), (b"6", "image")):
        await put(content, kind=kind)
    assert await store.usage() == {"audio": 5, "image": 1}


async def test_too_old_artifacts_go_and_kept_kinds_stay(store: ArtifactStore, put: Put, now: Clock) -> None:
    await put()
    voice = await put(kind="voice")
    now.seconds += 6 * DAY_S
    young = await put()
    assert await store.sweep() == Swept(0, 0, 0)
    now.seconds += 1.5 * DAY_S
    assert await store.sweep() == Swept(0, 0, n_expired=1)
    assert voice.path.exists()
    assert [artifact.id for artifact in (await store.list("audio", None, limit=9))[0]] == [young.id]


async def test_the_oldest_go_when_there_is_too_much(store: ArtifactStore, put: Put, now: Clock, tmp_path: Path) -> None:
    names = []
    for _ in range(4):
        names.append((await put(bytes(400))).name)
        now.seconds += 1
    await put(bytes(5000), kind="voice")
    assert await store.sweep() == Swept(0, 0, n_expired=2)
    assert set(names[2:]) == {name for name in stored(tmp_path) if name in names}


async def test_a_sweep_removes_files_without_rows_and_rows_without_files(
    store: ArtifactStore, put: Put, tmp_path: Path, logger: CapturingLogger
) -> None:
    kept, lost = await put(), await put()
    lost.path.unlink()
    orphan, foreign = kept.path.with_name("0" * 32 + ".wav"), kept.path.with_name("notes.txt")
    half = kept.path.with_name(f".{'1' * 32}.wav.0123abcd.tmp")
    for path in (orphan, half, foreign):
        path.touch()
    assert await store.sweep() == Swept(n_files=2, n_rows=1, n_expired=0)
    assert stored(tmp_path) == sorted([kept.name, "notes.txt"])
    assert await store.sweep() == Swept(0, 0, 0)
    assert [call.args for call in logger.calls] == [("artifacts swept",)]


async def test_a_sweep_leaves_alone_what_is_just_being_put(
    store: ArtifactStore, put: Put, database: Database, tmp_path: Path
) -> None:
    release = threading.Event()
    held = asyncio.ensure_future(database.write(lambda db: release.wait(10)))
    arriving = put()
    async with asyncio.timeout(5):
        while not stored(tmp_path):
            await asyncio.sleep(0.01)
    assert await store.sweep() == Swept(0, 0, 0)
    release.set()
    assert (await arriving).path.exists()
    await held


async def test_a_cancelled_put_leaves_a_whole_artifact(store: ArtifactStore, put: Put, tmp_path: Path) -> None:
    arriving = put()
    await asyncio.sleep(0)
    arriving.cancel()
    async with asyncio.timeout(5):
        while await store.usage() != {"audio": 5}:
            await asyncio.sleep(0.01)
    assert arriving.cancelled()
    assert await store.sweep() == Swept(0, 0, 0)
    assert len(stored(tmp_path)) == 1


async def test_a_row_that_cannot_be_stored_takes_its_file_along(put: Put, database: Database, tmp_path: Path) -> None:
    await database.write(lambda db: db.pragma("max_page_count", db.pragma("page_count")))
    with pytest.raises(StorageFull):
        await put(owner="alice" * 10_000)
    assert stored(tmp_path) == []


async def test_nothing_is_put_on_a_disk_that_is_almost_full(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=54))
    with pytest.raises(StorageFull):
        await put(b"sound")
    assert stored(tmp_path) == []
