"""A configuration that changes while it is read: layers, versions, secrets, listeners, failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr, model_validator

from corsac.core.config_store import ConfigStore, ServiceConfigModel
from corsac.core.configuration.views import ConfigChange
from corsac.core.exceptions import (
    ConfigVersionConflict,
    ConfigVersionNotFound,
    Invalid,
    StartRefused,
    StorageFailed,
    UnknownField,
    UnsafeConfig,
)
from corsac.core.storage.database import Database
from corsac.core.validation import refusal

T = TypeVar("T")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LOGS = structlog.testing.LogCapture


class SpeechConfigModel(ServiceConfigModel):
    max_text_chars: int = Field(1000, ge=1, le=100_000, description="Characters of a text.")
    voice: str = Field("joe", max_length=40, description="Voice where none is named.")
    speed: float = Field(1.0, ge=0.25, le=4, description="Speed of speech.")
    low: int = Field(0, ge=0, le=1_000_000, description="Never above `high`.")
    high: int = Field(0, ge=0, le=1_000_000, description="Never below `low`.")
    hosts: list[str] = Field(["localhost"], description="Who is answered for.")
    n_workers: int = Field(1, ge=1, le=8, description="Processes.", json_schema_extra={"restart": True})
    api_key: SecretStr | None = Field(None, description="Key of the upstream.")

    @model_validator(mode="after")
    def in_order(self) -> SpeechConfigModel:
        if self.low > self.high:
            raise refusal(Invalid("low must not be above high."))
        return self

    def lockout(self) -> str | None:
        return None if self.hosts else "Without hosts nobody is answered."


def new_store(
    *,
    file: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    database: Any = None,
    logs: structlog.testing.LogCapture | None = None,
) -> ConfigStore[SpeechConfigModel]:
    return ConfigStore(
        "tts",
        SpeechConfigModel,
        file_values=file or {},
        environment=environment or {},
        database=database,
        logger=structlog.wrap_logger(None, processors=[logs or LOGS()]),
        now=lambda: NOON,
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "corsac.sqlite", logger=structlog.get_logger())
    await database.open()
    yield database
    await database.close()


async def test_each_layer_wins_over_the_one_below_and_each_field_says_where_it_is_from() -> None:
    store = new_store(file={"voice": "file", "speed": 2, "max_text_chars": 5}, environment={"max_text_chars": "7"})
    await store.update({"speed": 3.0, "max_text_chars": 6}, author="ann")
    config = store.current
    assert (config.voice, config.speed, config.max_text_chars, config.n_workers) == ("file", 3.0, 7, 1)
    assert [store.origins[name] for name in ("voice", "speed", "max_text_chars", "n_workers")] == [
        "file",
        "api",
        "environment",
        "default",
    ]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("max_text_chars", "12", 12),
        ("voice", "12", "12"),
        ("voice", "true", "true"),
        ("voice", '"joe"', "joe"),
        ("speed", "2", 2.0),
        ("hosts", '["a", "b"]', ["a", "b"]),
    ],
)
async def test_an_environment_variable_is_read_as_its_field_needs_it(field: str, text: str, value: object) -> None:
    assert getattr(new_store(environment={field: text}).current, field) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"environment": {"max_text_chars": "many"}},
            "CORSAC_TTS__MAX_TEXT_CHARS: The value must be a whole",
        ),
        (
            {"environment": {"max_text_chars": "0"}},
            "CORSAC_TTS__MAX_TEXT_CHARS: The number must be at least 1",
        ),
        ({"environment": {"max_text_char": "5"}}, "did you mean max_text_chars?"),
        ({"file": {"speed": "fast"}}, "corsac.toml, table services.tts: speed: The value must be a number"),
        ({"file": {"speed": float("inf")}}, "finite"),
    ],
)
async def test_the_start_is_refused_with_values_that_do_not_fit(arguments: Any, words: str) -> None:
    with pytest.raises(StartRefused, match=words):
        new_store(**arguments)


@pytest.mark.parametrize("description", ["", "An endless wait."])
async def test_a_field_without_description_or_default_is_no_configuration(description: str) -> None:
    with pytest.raises(TypeError, match="needs a description and a default"):
        type(
            "Bad",
            (ServiceConfigModel,),
            {"__annotations__": {"wait_s": int}, "wait_s": Field(description=description)},
        )


async def test_versions_count_from_one_and_a_change_that_changes_nothing_is_none() -> None:
    store = new_store()
    assert store.version == 0
    assert (await store.update({"speed": 2.0}, author="ann")).version == 1
    assert (await store.update({"speed": 2.0}, author="ann")).version == 1
    assert (await store.replace({}, author="ann")).version == 2


async def test_a_change_upon_an_old_version_is_refused() -> None:
    store = new_store()
    etag = store.etag
    await store.update({"speed": 2.0}, author="ann", if_match=f'"other", {etag}')
    for change in (
        store.update({"speed": 3.0}, author="bob", if_match=etag),
        store.reset(author="b", if_match="x"),
    ):
        with pytest.raises(ConfigVersionConflict):
            await change
    assert (store.current.speed, store.version) == (2.0, 1)
    await store.update({"speed": 3.0}, author="bob", if_match="*")
    assert store.current.speed == 3.0


async def test_of_many_changes_upon_one_version_one_wins() -> None:
    store = new_store()
    changes = (store.update({"low": 0, "high": n}, author="a", if_match=store.etag) for n in range(1, 21))
    results = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(isinstance(each, ConfigVersionConflict) for each in results) == 19
    assert store.version == 1


@pytest.mark.parametrize(
    ("values", "reason", "pointer"),
    [
        ({"max_text_chars": 0}, "OUT_OF_RANGE", "/max_text_chars"),
        ({"max_text_chars": "5"}, "WRONG_TYPE", "/max_text_chars"),
        ({"max_txt_chars": 5}, "UNKNOWN_FIELD", "/max_txt_chars"),
        ({"low": 2, "high": 1}, "INVALID", ""),
        ({"api_key": "***"}, "INVALID", "/api_key"),
    ],
)
async def test_invalid_values_leave_the_running_configuration_alone(
    values: dict[str, Any], reason: str, pointer: str
) -> None:
    store = new_store()
    before = store.current
    with pytest.raises(Invalid) as refused:
        await store.update(values, author="ann")
    assert (refused.value.reason, refused.value.errors[0].pointer) == (reason, pointer)
    assert store.current is before
    assert store.preview(values).errors == list(refused.value.errors)
    assert await store.history() == []


async def test_a_value_hidden_by_the_environment_is_validated_all_the_same() -> None:
    store = new_store(environment={"speed": "2"})
    with pytest.raises(Invalid):
        await store.update({"speed": 99.0}, author="ann")


async def test_a_secret_is_masked_wherever_it_can_be_read() -> None:
    store = new_store()
    await store.update({"api_key": "first-secret"}, author="ann")
    view = await store.update({"api_key": "second-secret"}, author="ann")
    assert store.current.api_key == SecretStr("second-secret")
    shown = [view, store.preview({"api_key": "third-secret"}), await store.diff(1, 2), *await store.history()]
    text = "".join(each.model_dump_json() for each in shown) + repr(store.masked()) + repr(store.current)
    assert "secret" not in text
    assert view.values["api_key"] == "***"
    assert (await store.diff(1, 2)).changes.keys() == {"api_key"}


@pytest.mark.parametrize("origin", ["api", "file"])
async def test_a_secret_that_comes_back_masked_is_kept_where_it_is_from(origin: str) -> None:
    store = new_store(file={"api_key": "kept"} if origin == "file" else {})
    if origin == "api":
        await store.update({"api_key": "kept"}, author="ann")
    await store.replace(store.masked() | {"speed": 2.0}, author="ann")
    assert store.current.api_key == SecretStr("kept")
    assert (store.current.speed, store.origins["api_key"]) == (2.0, origin)


async def test_values_may_come_as_a_model_of_which_the_fields_that_were_set_count() -> None:
    store = new_store()
    await store.update({"voice": "ann", "api_key": "kept"}, author="ann")
    await store.replace(SpeechConfigModel(speed=2.0, api_key=SecretStr("***")), author="ann")
    assert (store.current.voice, store.current.speed) == ("joe", 2.0)
    assert store.current.api_key == SecretStr("kept")


@pytest.mark.parametrize(("force", "reason"), [(False, "wanted"), (True, None), (True, "  ")])
async def test_a_lockout_needs_force_and_a_reason(force: bool, reason: str | None) -> None:
    store = new_store()
    with pytest.raises(UnsafeConfig, match="Without hosts nobody is answered"):
        await store.update({"hosts": []}, author="ann", force=force, reason=reason)
    assert store.preview({"hosts": []}).unsafe
    assert store.current.hosts == ["localhost"]


async def test_a_forced_lockout_is_noted_and_does_not_block_what_comes_after() -> None:
    store = new_store()
    await store.update({"hosts": []}, author="ann", force=True, reason="The proxy checks them.")
    await store.update({"speed": 2.0}, author="ann")
    assert (await store.history())[1].note == "The proxy checks them."
    assert store.current.hosts == []


async def test_a_preview_says_what_would_change_and_restart_and_changes_nothing() -> None:
    store = new_store()
    await store.update({"speed": 2.0}, author="ann")
    preview = store.preview({"n_workers": 2}, merge=False)
    assert preview.valid
    assert preview.restart_needed == ["n_workers"]
    assert preview.changes["speed"].model_dump() == {"before": 2.0, "after": 1.0}
    assert store.version == 1


async def test_the_history_says_who_changed_what_when_and_how() -> None:
    store = new_store()
    await store.update({"speed": 2.0}, author="ann", reason="Too slow.")
    await store.update({"speed": 3.0}, author="bob")
    await store.rollback(1, author="ann")
    last, middle, first = await store.history()
    assert (first.author, first.source, first.note, first.at) == ("ann", "api", "Too slow.", NOON)
    assert middle.changes["speed"].model_dump() == {"before": 2.0, "after": 3.0}
    assert (last.version, last.source, last.note) == (3, "rollback", "Back to version 1.")
    assert [each.version for each in await store.history(limit=1)] == [3]


async def test_a_version_that_does_not_exist_is_not_found() -> None:
    store = new_store()
    await store.update({"speed": 2.0}, author="ann")
    for attempt in (store.rollback(2, author="ann"), store.diff(0, 7), store.rollback(-1, author="ann")):
        with pytest.raises(ConfigVersionNotFound):
            await attempt
    assert (await store.diff(0, 1)).changes["speed"].after == 2.0


async def test_a_reset_takes_back_some_fields_or_all() -> None:
    store = new_store(file={"speed": 0.5})
    await store.update({"speed": 2.0, "voice": "ann"}, author="ann")
    await store.reset(["speed"], author="ann")
    assert (store.current.speed, store.current.voice) == (0.5, "ann")
    await store.reset(author="ann")
    assert store.current.voice == "joe"
    with pytest.raises(UnknownField):
        await store.reset(["spede"], author="ann")


async def test_listeners_hear_of_each_change_in_order_and_a_failing_one_undoes_nothing() -> None:
    logs = LOGS()
    store = new_store(logs=logs)
    heard: list[ConfigChange[SpeechConfigModel]] = []

    async def listen(change: ConfigChange[SpeechConfigModel]) -> None:
        await asyncio.sleep(0)
        heard.append(change)

    def fail(_change: object) -> None:
        raise LookupError("broken listener")

    store.subscribe(fail)
    unsubscribe = store.subscribe(listen)
    await asyncio.gather(*(store.update({"n_workers": n}, author="ann") for n in (2, 3)))
    unsubscribe()
    await store.update({"n_workers": 4}, author="ann")
    assert [(each.version, each.before.n_workers, each.after.n_workers) for each in heard] == [
        (1, 1, 2),
        (2, 2, 3),
    ]
    assert heard[0].restart_needed == ["n_workers"]
    assert store.current.n_workers == 4
    assert "configuration listener failed" in [entry["event"] for entry in logs.entries]


async def test_a_listener_that_would_wait_for_itself_is_stopped() -> None:
    logs = LOGS()
    store = new_store(logs=logs)

    async def change_again(_change: object) -> None:
        await store.update({"speed": 4.0}, author="listener")

    store.subscribe(change_again)
    await asyncio.wait_for(store.update({"speed": 2.0}, author="ann"), 2)
    assert store.current.speed == 2.0


async def test_the_file_becomes_a_version_only_if_it_changes_something() -> None:
    store = new_store(file={"speed": 2.0})
    await store.load()
    await store.set_file_values({"speed": 2.0})
    assert store.version == 1
    await store.set_file_values({"voice": "ann"})
    assert (store.version, store.current.speed, store.current.voice) == (2, 1.0, "ann")
    assert [each.source for each in await store.history()] == ["file", "file"]


async def test_a_file_cannot_lock_people_out_of_a_running_server() -> None:
    store = new_store()
    with pytest.raises(UnsafeConfig):
        await store.set_file_values({"hosts": []})
    assert store.version == 0


async def test_versions_outlive_the_server(database: Database) -> None:
    before = new_store(database=database, file={"voice": "ann"})
    await before.load()
    await before.update({"speed": 2.0, "api_key": "kept"}, author="ann")
    after = new_store(database=database, file={"voice": "ann"})
    await after.load()
    assert after.current == before.current
    assert (after.version, after.etag) == (2, before.etag)
    assert await after.history() == await before.history()
    await after.rollback(1, author="ann")
    assert (after.current.speed, after.current.api_key) == (1.0, None)


async def test_a_file_changed_while_the_server_was_off_becomes_a_version(database: Database) -> None:
    before = new_store(database=database, file={"voice": "ann"})
    await before.load()
    after = new_store(database=database, file={"voice": "bob"})
    await after.load()
    assert (await after.history())[0].changes["voice"].model_dump() == {"before": "ann", "after": "bob"}
    assert after.current.voice == "bob"


async def test_stored_values_that_the_model_no_longer_takes_are_left_out_and_logged(
    database: Database,
) -> None:
    before = new_store(database=database)
    await before.update({"speed": 4.0, "voice": "ann"}, author="ann")
    await database.write(
        lambda db: db.execute("UPDATE config_versions SET overrides = replace(overrides, '4.0', '44')").fetchall()
    )
    logs = LOGS()
    after = new_store(database=database, logs=logs)
    await after.load()
    assert (after.current.speed, after.current.voice) == (1.0, "ann")
    assert logs.entries[0]["fields"] == ["speed"]


async def test_a_rollback_takes_less_than_a_tenth_of_a_second(database: Database) -> None:
    store = new_store(database=database)
    for n in range(1, 51):
        await store.update({"high": n}, author="ann")
    start = time.perf_counter()
    await store.rollback(1, author="ann")
    assert time.perf_counter() - start < 0.1
    assert store.current.high == 1


class UncertainDatabase:
    """A database whose next commit fails, after or before it is durable."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(
            "CREATE TABLE config_versions(service, version, at, author, source, overrides, changes, note)"
        )
        self.failing: str | None = None

    async def write(self, unit: Callable[[apsw.Connection], T]) -> T:
        failing, self.failing = self.failing, None
        await asyncio.sleep(0)
        if failing == "before":
            raise StorageFailed
        answer = unit(self.connection)
        if failing == "after":
            raise StorageFailed
        return answer

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        return query(self.connection)


@pytest.mark.parametrize(("failing", "version"), [("before", 1), ("after", 2)])
async def test_after_a_failed_commit_the_next_change_builds_on_what_was_stored(failing: str, version: int) -> None:
    database = UncertainDatabase()
    store = new_store(database=database)
    heard: list[int] = []
    store.subscribe(lambda change: heard.append(change.version))
    database.failing = failing
    with pytest.raises(StorageFailed):
        await store.update({"voice": "ann"}, author="ann")
    assert store.current.voice == "joe"
    await store.update({"speed": 2.0}, author="ann")
    assert store.current.voice == ("ann" if failing == "after" else "joe")
    assert (store.version, heard) == (version, list(range(1, version + 1)))


async def test_a_change_whose_caller_is_gone_is_finished() -> None:
    store = new_store(database=UncertainDatabase())
    caller = asyncio.create_task(store.update({"speed": 2.0}, author="ann"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await store.update({"voice": "ann"}, author="ann")
    assert (store.current.speed, store.version) == (2.0, 2)


async def test_a_thousand_readers_during_changes_see_whole_versions() -> None:
    store = new_store()
    seen: set[int] = set()

    async def read() -> None:
        for _ in range(20):
            config = store.current
            view = store.view()
            assert config.low == config.high
            assert view.values["low"] == view.values["high"] == view.version
            seen.add(config.low)
            await asyncio.sleep(0)

    async def change() -> None:
        for n in range(1, 101):
            await store.update({"low": n, "high": n}, author="ann")

    await asyncio.gather(change(), *(read() for _ in range(1000)))
    assert store.version == 100
    assert len(seen) > 3


PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "speed": st.sampled_from([0.5, 2, 4.0, 99.0]),
        "voice": st.sampled_from(["ann", "***", 5]),
        "low": st.integers(0, 3),
        "high": st.integers(0, 3),
        "api_key": st.sampled_from(["one", "two", "***", None]),
    },
)
EDITS = st.tuples(st.sampled_from(["update", "replace", "file", "rollback", "reset"]), PATCHES, st.integers(0, 6))


@settings(max_examples=150, deadline=None)
@given(edits=st.lists(EDITS, max_size=12))
async def test_whatever_is_done_the_configuration_is_that_of_its_layers(edits: list[Any]) -> None:
    store = new_store(environment={"high": "2"})
    file: dict[str, Any] = {}
    layers: list[dict[str, Any]] = [{}]  # what the API sets, by version
    for kind, values, number in edits:
        version, api = store.version, layers[-1]
        kept = {k: v for k, v in values.items() if not (k == "api_key" and v == "***" and store.current.api_key)}
        back = {k: api[k] for k in values.keys() - kept.keys() if k in api}
        wanted = {"update": api | kept, "replace": kept | back, "reset": {}, "file": api}.get(kind)
        calls = {
            "update": lambda v=values: store.update(v, author="a"),
            "replace": lambda v=values: store.replace(v, author="a"),
            "reset": lambda: store.reset(author="a"),
            "rollback": lambda n=number: store.rollback(n, author="a"),
            "file": lambda v=values: store.set_file_values(v),
        }
        try:
            await calls[kind]()
        except (Invalid, ConfigVersionNotFound):
            assert store.version == version
        else:
            wanted = layers[number] if wanted is None else wanted
            new_file = values if kind == "file" else file
            assert store.version == version + ((wanted, new_file) != (api, file))
            if store.version > version:
                layers.append(wanted)
            file = new_file
        assert store.current == SpeechConfigModel.model_validate(file | layers[-1] | {"high": 2})
