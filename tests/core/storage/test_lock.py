import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corsac.core.exceptions import DataDirectoryLocked, StartRefused
from corsac.core.storage.lock import Announcement, DataDirectory

SERVER = """
import sys, time
from pathlib import Path
from corsac.core.storage.lock import DataDirectory
directory = DataDirectory(Path(sys.argv[1]))
directory.lock()
directory.announce("http://127.0.0.1:1", "secret")
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data", sleep=lambda _: None)
    directory.create()
    return directory


@pytest.fixture
def server(directory: DataDirectory) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", SERVER, str(directory.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        yield server
        server.kill()


def test_only_its_owner_can_look_into_the_directory(directory: DataDirectory) -> None:
    folders = [directory.root, *(path for path in directory.root.iterdir() if path.is_dir())]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert {folder.name for folder in folders} == {"data", "files", "models", "logs", "backups", "plugins", "uploads"}


def test_a_directory_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused, match="Not a directory") as refused:
        DataDirectory(tmp_path / "file" / "data").create()
    assert "CORSAC_DATA_DIRECTORY" in (refused.value.hint or "")


def test_a_second_server_is_refused_with_the_first_ones_pid(
    directory: DataDirectory, server: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(DataDirectoryLocked, match=f"process {server.pid}") as refused:
        directory.lock()
    assert refused.value.exit_code == 75


def test_a_killed_server_leaves_neither_lock_nor_announcement(
    directory: DataDirectory, server: subprocess.Popen[bytes]
) -> None:
    assert directory.read_announcement() == Announcement("http://127.0.0.1:1", server.pid, "secret")
    server.kill()
    server.wait()
    assert directory.read_announcement() is None
    directory.lock()
    assert directory.read_announcement() is None
    assert (directory.root / "lock").read_text() == str(os.getpid())


def test_unlocking_lets_the_next_one_in(directory: DataDirectory) -> None:
    second = DataDirectory(directory.root, sleep=lambda _: None)
    directory.lock()
    with pytest.raises(DataDirectoryLocked):
        second.lock()
    directory.unlock()
    directory.unlock()
    second.lock()


def test_a_server_that_starts_while_somebody_looks_is_not_refused(directory: DataDirectory) -> None:
    looking = DataDirectory(directory.root)
    looking.lock()
    DataDirectory(directory.root, sleep=lambda _: looking.unlock()).lock()


def test_an_announcement_is_secret_and_can_be_withdrawn(directory: DataDirectory) -> None:
    directory.lock()
    directory.announce("http://127.0.0.1:8484", "secret")
    assert (directory.root / "server.json").stat().st_mode & 0o777 == 0o600
    assert directory.read_announcement() == Announcement("http://127.0.0.1:8484", os.getpid(), "secret")
    directory.withdraw()
    assert directory.read_announcement() is None
    directory.withdraw()
