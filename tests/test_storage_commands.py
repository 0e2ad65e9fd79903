"""`corsac backup`, `restore` and `repair`, as a person types them, beside a server and without one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.server import Server, run_command

KEY = {"name": "kept", "principal": "alice", "scopes": ["tts"]}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The data directory of a server that was killed, a backup that was made while it ran, and an id that is in it."""
    folder = tmp_path_factory.mktemp("server")
    with Server(folder / "data") as server:
        key_id = str(server.ask("POST", "/api/keys", KEY).json["key"]["id"])
        done = run_command(server.directory, "backup", str(folder / "backup"))
        assert (done.returncode, "verified" in done.stdout) == (0, True), done.stderr
        refused = [run_command(server.directory, *each) for each in (["repair"], ["restore", str(folder / "backup")])]
        assert [(each.returncode, "in use" in each.stderr) for each in refused] == [(75, True)] * 2
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
    return server.directory, folder / "backup", key_id


def keys(directory: Path) -> list[str]:
    with Server(directory) as server:
        return [each["id"] for each in server.ask("GET", "/api/keys").json]


def test_a_backup_is_restored_where_there_is_nothing(stopped: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, backup, key_id = stopped
    done = run_command(tmp_path / "data", "restore", str(backup))
    assert done.returncode == 0, done.stderr
    assert keys(tmp_path / "data") == [key_id]


def test_restoring_over_a_database_needs_force_and_a_backup_that_is_one(
    stopped: tuple[Path, Path, str], tmp_path: Path
) -> None:
    directory, backup, _ = stopped
    refused = run_command(directory, "restore", str(backup))
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    refused = run_command(directory, "restore", str(tmp_path), "--force")
    assert (refused.returncode, "is no backup" in refused.stderr, refused.stdout) == (1, True, "")
    assert run_command(directory, "restore", str(backup), "--force").returncode == 0


def test_without_a_database_there_is_nothing_to_back_up_or_repair(tmp_path: Path) -> None:
    assert "nothing to back up" in run_command(tmp_path / "data", "backup").stderr
    assert "nothing was changed" in run_command(tmp_path / "data", "repair").stdout


def test_a_damaged_database_is_refused_with_the_way_back_and_repaired(
    stopped: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, backup, key_id = stopped
    data = tmp_path / "data"
    assert run_command(data, "restore", str(backup)).returncode == 0
    assert run_command(data, "backup").returncode == 0
    [made] = (data / "backups").glob("manual-*")
    database = data / "corsac.sqlite"
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size - 4096)
    refused = run_command(data, "serve", "--port", "0")
    assert refused.returncode == 74
    assert "corsac repair" in refused.stderr
    assert f"corsac restore {made} --force" in refused.stderr
    assert run_command(data, "backup").returncode == 1
    repaired = run_command(data, "repair")
    assert (repaired.returncode, "rows saved" in repaired.stdout) == (0, True), repaired.stderr
    assert keys(data) == [key_id]
