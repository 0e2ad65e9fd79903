"""`corsac.toml` under every kind of rubbish: the good configuration stays, and a good file is applied."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from pydantic import Field

from corsac.core.config_store import ConfigStore, ServiceConfigModel
from corsac.core.configuration.file import ConfigFile, ConfigFileRefused, Rejection

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
GOOD = "[services.tts]\nspeed = 2\n[services.rag]\nspeed = 3\n"


class EchoConfigModel(ServiceConfigModel):
    speed: float = Field(1.0, ge=0.25, le=4, description="Speed.")
    hosts: list[str] = Field(["localhost"], description="Who is answered for.")

    def lockout(self) -> str | None:
        return None if self.hosts else "Without hosts nobody is answered."


def new_store(service: str) -> ConfigStore[EchoConfigModel]:
    logger = structlog.get_logger()
    return ConfigStore(service, EchoConfigModel, file_values={}, environment={}, database=None, logger=logger)


@pytest.fixture
def stores() -> dict[str, ConfigStore[EchoConfigModel]]:
    return {"tts": new_store("tts"), "rag": new_store("rag")}


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    return ConfigFile(tmp_path / "corsac.toml", logger=structlog.get_logger(), now=lambda: NOON)


def speeds(stores: dict[str, ConfigStore[EchoConfigModel]]) -> list[float]:
    return [store.current.speed for store in stores.values()]


def test_the_tables_of_services_and_engines_are_read(file: ConfigFile) -> None:
    file.path.write_text("[server]\nport = 1\n[services.tts]\nspeed = 2\n[engines.speech.piper]\nn_threads = 2\n")
    contents = file.read()
    assert contents.services == {"tts": {"speed": 2}}
    assert contents.engines == {"speech": {"piper": {"n_threads": 2}}}


def test_without_a_file_nothing_is_set(file: ConfigFile) -> None:
    assert (file.read().services, file.read().engines) == ({}, {})


async def test_a_good_file_is_applied_to_every_service(
    file: ConfigFile, stores: dict[str, ConfigStore[EchoConfigModel]]
) -> None:
    file.path.write_text(GOOD)
    assert await file.reload(stores) is None
    assert speeds(stores) == [2.0, 3.0]
    file.path.write_text("[services.rag]\nspeed = 3\n")
    await file.reload(stores)
    assert speeds(stores) == [1.0, 3.0]
    assert [store.version for store in stores.values()] == [2, 1]


@pytest.mark.parametrize(
    ("rubbish", "words"),
    [
        (b'[services.tts]\nspeed = 4\n[services.rag]\nspeed = "3', "not TOML"),
        (b"[services.tts]\nspeed = 4\nspeed = 3\n", "not TOML: line 3, column 10"),
        (bytes(range(256)) * 40, "not UTF-8 text at byte 128"),
        (b"\0\0\0\0", "not TOML: line 1, column 1"),
        (b"x = 1\n" * 200_000, "larger than 1 MiB"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\n", "not TOML"),
        (b"x: !!python/object/apply:os.system ['true']\n", "not TOML"),
        (b"x = " + b"[" * 100_000, "not TOML"),
        (b"x = " + b"9" * 10_000, "not TOML"),
        (b"a" + b".a" * 20_000 + b" = 1\n", "more than 200 dots in line 1"),
        (b"services = 3\n", r"only tables in \[services\]"),
        (b"[services]\ntts = 3\n", r"only tables in \[services\]"),
        (b"[engines.speech]\npiper = 3\n", r"only tables in \[engines.speech\]"),
        (b"[service.tts]\nspeed = 2\n", "nearest: services"),
        (b"[services.tss]\nspeed = 4\n", "nearest: services.tts"),
        (b"[services.tts]\nspeed = 4\n[services.rag]\nspeed = 99\n", "services.rag: speed: .* at most 4"),
        (b"[services.tts]\nspeed = 4\n[services.rag]\nsped = 1\n", "services.rag: .* did you mean speed?"),
        (b"[services.tts]\nspeed = 4\n[services.rag]\nhosts = []\n", "services.rag: Without hosts nobody"),
    ],
    ids=lambda value: repr(value[-24:]),
)
async def test_rubbish_is_refused_as_a_whole_within_a_second_and_kept_for_health(
    file: ConfigFile, stores: dict[str, ConfigStore[EchoConfigModel]], rubbish: bytes, words: str
) -> None:
    file.path.write_text(GOOD)
    await file.reload(stores)
    file.path.write_bytes(rubbish)
    start = time.perf_counter()
    rejection = await file.reload(stores)
    assert time.perf_counter() - start < 1
    assert rejection == file.rejection
    assert rejection is not None
    assert rejection.at == NOON
    with pytest.raises(ConfigFileRefused, match=words):
        raise ConfigFileRefused(rejection.detail)
    assert str(file.path.parent) not in rejection.detail
    assert speeds(stores) == [2.0, 3.0]
    assert [store.version for store in stores.values()] == [1, 1]


def test_a_hundred_mebibytes_are_not_read(file: ConfigFile) -> None:
    with file.path.open("wb") as sparse:
        sparse.truncate(100 << 20)
    with pytest.raises(ConfigFileRefused, match="larger than 1 MiB"):
        file.read()


@pytest.mark.parametrize(
    "place",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)],
    ids=["folder", "fifo", "device", "loop"],
)
def test_what_is_no_regular_file_is_refused_without_waiting(file: ConfigFile, place: Callable[[Path], None]) -> None:
    place(file.path)
    with pytest.raises(ConfigFileRefused, match=r"not a regular file|cannot be read"):
        file.read()


async def test_a_vanished_file_takes_nothing_back(
    file: ConfigFile, stores: dict[str, ConfigStore[EchoConfigModel]]
) -> None:
    assert await file.reload(stores) is None
    file.path.write_text(GOOD)
    await file.reload(stores)
    file.path.unlink()
    assert "is gone" in str(await file.reload(stores))
    assert speeds(stores) == [2.0, 3.0]


async def test_a_good_file_ends_the_rejection_and_each_refusal_is_told(
    tmp_path: Path, stores: dict[str, ConfigStore[EchoConfigModel]]
) -> None:
    told: list[Rejection] = []

    async def tell(rejection: Rejection) -> None:
        told.append(rejection)

    file = ConfigFile(tmp_path / "corsac.toml", logger=structlog.get_logger(), on_rejection=tell)
    file.path.write_text("rubbish")
    await file.reload(stores)
    file.path.write_text(GOOD)
    await file.reload(stores)
    assert len(told) == 1
    assert file.rejection is None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_watched_file_is_applied_when_it_is_written_replaced_or_mended(
    file: ConfigFile, stores: dict[str, ConfigStore[EchoConfigModel]]
) -> None:
    file.path.write_text("")
    watching = asyncio.create_task(file.watch(stores))
    await asyncio.sleep(0.3)  # the watch has no sign that it has begun
    file.path.write_text(GOOD)
    await until(lambda: speeds(stores) == [2.0, 3.0])
    file.path.write_text("rubb")
    await until(lambda: file.rejection is not None)
    new = file.path.with_suffix(".new")
    new.write_text("[services.tts]\nspeed = 4\n")
    new.replace(file.path)
    await until(lambda: speeds(stores) == [4.0, 1.0])
    assert file.rejection is None
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_reload_that_fails_does_not_end_the_watch(
    tmp_path: Path, stores: dict[str, ConfigStore[EchoConfigModel]]
) -> None:
    async def fail(_rejection: Rejection) -> None:
        raise LookupError("nobody listens")

    logs = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(None, processors=[logs])
    file = ConfigFile(tmp_path / "corsac.toml", logger=logger, on_rejection=fail)
    watching = asyncio.create_task(file.watch(stores))
    await asyncio.sleep(0.3)
    file.path.write_text("rubbish")
    await until(lambda: "configuration reload failed" in [entry["event"] for entry in logs.entries])
    file.path.write_text(GOOD)
    await until(lambda: speeds(stores) == [2.0, 3.0])
    watching.cancel()
    await asyncio.wait([watching])
