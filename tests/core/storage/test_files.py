import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from corsac.core.exceptions import StorageFailed, StorageFull
from corsac.core.storage.files import require_room, write_atomically


@pytest.mark.parametrize("content", [b"whole", iter([b"wh", b"", b"ole"])])
def test_a_file_is_written_whole_and_replaces_the_old_one(tmp_path: Path, content: bytes | Iterator[bytes]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something longer than that")
    write_atomically(path, content)
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_permissions_do_not_depend_on_the_umask(tmp_path: Path, mode: int) -> None:
    write_atomically(tmp_path / "file", b"", mode=mode)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_content_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ConnectionError):
        write_atomically(tmp_path / "file", pieces())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed), (errno.EPERM, OSError)],
)
def test_an_error_of_the_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("corsac.core.storage.files.sync", fail)
    with pytest.raises(expected):
        write_atomically(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == []


def test_the_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def sync(descriptor: int) -> None:
        synced = "folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file"
        seen.append((synced, (tmp_path / "file").exists()))

    monkeypatch.setattr("corsac.core.storage.files.sync", sync)
    write_atomically(tmp_path / "file", b"content")
    assert seen == [("file", False), ("folder", True)]


@pytest.mark.parametrize(
    ("total", "free", "fits"), [(100, 15, True), (100, 14, False), (1 << 50, 1 << 31, True), (1 << 50, 1 << 30, False)]
)
def test_five_percent_or_one_gib_stay_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    if fits:
        require_room(tmp_path, 10)
    else:
        with pytest.raises(StorageFull):
            require_room(tmp_path, 10)
