"""A service's configuration: one frozen model, layered, versioned and changed while the service runs.

Four layers, the later one wins: defaults < `corsac.toml` < API < environment. What a layer sets is whole
top-level fields. Every change is validated as a whole, stored, and then put in force by one assignment, so
that a reader of `store.current` has one whole version.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Unpack

from pydantic import BaseModel

from corsac.core.configuration.edit import Edit, EditOptions
from corsac.core.configuration.layers import Layering, Snapshot, environment_values, validated
from corsac.core.configuration.model import (
    ConfigModel,
    ServiceConfigModel,
    Values,
    differences,
    masked,
    plain,
    restarting,
    without_masks,
)
from corsac.core.configuration.versions import ConfigVersions, MemoryVersions, SqliteVersions, StoredVersion
from corsac.core.configuration.views import (
    ConfigChange,
    ConfigDiff,
    ConfigVersion,
    ConfigView,
    Origin,
    Preview,
)
from corsac.core.exceptions import (
    ConfigVersionConflict,
    ConfigVersionNotFound,
    Invalid,
    StartRefused,
    UnsafeConfig,
)

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger
    from corsac.core.storage.database import Database

__all__ = ["ConfigStore", "ServiceConfigModel"]


class ConfigStore(Generic[ConfigModel]):
    """The configuration of one service.

    Reading is `current`, at any time and from any thread. Changing is a coroutine of the server's event
    loop; changes follow one another, and one that has begun is finished even if its caller is cancelled.
    Values are a mapping by field or a model, of which the fields that were set count.

    Args:
        service: The service's name.
        model: Its configuration's model.
        file_values: Its table in `corsac.toml`.
        environment: Its environment variables: field name in lower case → text.
        database: Holds the versions in the table `config_versions`; None: they end with the process.
        logger: Takes a line per change and per failing listener.
        now: The present time, UTC.

    Raises:
        StartRefused: The file's or the environment's values are not valid.
    """

    def __init__(
        self,
        service: str,
        model: type[ConfigModel],
        *,
        file_values: Values,
        environment: Mapping[str, str],
        database: Database | None,
        logger: Logger,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.service = service
        self.model = model
        self._logger = logger
        self._now = now
        self._versions: ConfigVersions = MemoryVersions() if database is None else SqliteVersions(service, database)
        self._listeners: list[Callable[[ConfigChange[ConfigModel]], Awaitable[None] | None]] = []
        self._lock = asyncio.Lock()
        self._changing: set[asyncio.Task[ConfigView]] = set()
        self._in_doubt = False  # a version was sent to the database and its outcome is unknown
        self._layering = Layering(model, environment_values(service, model, environment))
        try:
            self._snapshot = self._layering.built(0, file_values, {})
        except Invalid as error:
            raise StartRefused(f"corsac.toml, table services.{service}: {error.detail}") from error

    @property
    def current(self) -> ConfigModel:
        """The configuration in force."""
        return self._snapshot.config

    @property
    def version(self) -> int:
        """Number of the version in force; 0 before the first change."""
        return self._snapshot.version

    @property
    def etag(self) -> str:
        """Entity tag of what `view` shows, in quotes."""
        return self._snapshot.etag

    @property
    def origins(self) -> dict[str, Origin]:
        """Where each field's value comes from."""
        return dict(self._snapshot.origins)

    @property
    def file_values(self) -> dict[str, Any]:
        """What the file sets, by field."""
        return dict(self._snapshot.file)

    def masked(self) -> dict[str, Any]:
        """Every field in force as JSON, secrets as `***`."""
        return masked(self.current)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the configuration: secrets are `writeOnly`, `restart` marks what needs one."""
        return self.model.model_json_schema()

    def view(self, restart_needed: Collection[str] = ()) -> ConfigView:
        """The configuration in force as a client sees it."""
        snapshot = self._snapshot
        return ConfigView(
            service=self.service,
            version=snapshot.version,
            etag=snapshot.etag,
            values=masked(snapshot.config),
            origins=snapshot.origins,
            restart_needed=list(restart_needed),
        )

    def subscribe(self, listener: Callable[[ConfigChange[ConfigModel]], Awaitable[None] | None]) -> Callable[[], None]:
        """Have `listener` called after every change, one change after the other.

        A listener that raises is logged and undoes nothing. It must not change this configuration itself.

        Returns:
            What ends the subscription.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def load(self) -> None:
        """Take up the last version, once, before anything reads the configuration.

        Stored values that the model no longer takes are left out and logged. A file that changed while the
        server was off becomes a version.
        """
        at_start = self._snapshot
        edit = Edit("corsac.toml", force=True, reason="At the start.", source="file")
        async with self._lock:
            stored = await self._versions.find(None)
            if stored is None:
                before = self._layering.without_file(at_start)
            else:
                before = self._snapshot = self._restored(stored)
            kept = self._layering.salvaged(0, at_start.file, before.api)
            await self._put(before, kept.file, kept.api, edit)

    async def replace(self, values: Values | BaseModel, **edit: Unpack[EditOptions]) -> ConfigView:
        """Have the API set exactly `values`.

        Args:
            values: By field; `***` keeps a secret as it is.
            edit: See `EditOptions`.

        Raises:
            ConfigVersionConflict: The ETag is not the present one.
            Invalid: `errors` lists every invalid field. Nothing changed.
            UnsafeConfig: It would lock its author out, and `force` or the reason is missing.
        """
        return await self._change(Edit(**edit), lambda: self._proposed(values, merge=False))

    async def update(self, values: Values | BaseModel, **edit: Unpack[EditOptions]) -> ConfigView:
        """Have the API set `values` as well; the other fields stay. Arguments and errors as for `replace`."""
        return await self._change(Edit(**edit), lambda: self._proposed(values, merge=True))

    async def reset(self, fields: Collection[str] | None = None, **edit: Unpack[EditOptions]) -> ConfigView:
        """Take back what the API sets: all of it, or these fields. Errors as for `replace`."""
        gone = self.model.model_fields if fields is None else fields
        unknown = {name: None for name in gone if name not in self.model.model_fields}
        if unknown:
            validated(self.model, unknown)
        return await self._change(Edit(**edit), lambda: {k: v for k, v in self._snapshot.api.items() if k not in gone})

    async def rollback(self, version: int, **edit: Unpack[EditOptions]) -> ConfigView:
        """Have the API set what it set in `version`, as a new version; file and environment stay as they are.

        Args:
            version: One of the history; 0: before the first change.
            edit: See `EditOptions`.

        Raises:
            ConfigVersionNotFound: There is no such version.
            ConfigVersionConflict, Invalid, UnsafeConfig: As for `replace`.
        """
        _, api = await self._layers(version)
        note = f"Back to version {version}."
        return await self._change(Edit(**edit, source="rollback", note=note), lambda: api)

    async def set_file_values(self, values: Values) -> ConfigView:
        """Take the service's table of a changed file; becomes a version only if it changes something.

        Raises:
            Invalid: Nothing changed.
            UnsafeConfig: It would lock people out; a file cannot give a reason.
        """
        return await self._change(Edit("corsac.toml", source="file"), lambda: self._snapshot.api, file=values)

    def check_file_values(self, values: Values) -> None:
        """Raise what `set_file_values` would raise."""
        self._refuse_lockout(self._layering.built(self.version, values, self._snapshot.api).config, Edit("corsac.toml"))

    def preview(self, values: Values | BaseModel, merge: bool = True) -> Preview:
        """What `update` (or, without `merge`, `replace`) with these values would do."""
        try:
            proposed = self._layering.built(self.version, self._snapshot.file, self._proposed(values, merge)).config
        except Invalid as error:
            return Preview(valid=False, changes={}, restart_needed=[], errors=list(error.errors))
        changes = differences(self.current, proposed)
        return Preview(
            valid=True,
            changes=changes,
            restart_needed=restarting(self.model, changes),
            errors=[],
            unsafe=self._lockout(proposed),
        )

    async def history(self, limit: int = 50) -> list[ConfigVersion]:
        """The last versions, newest first."""
        return await self._versions.latest(limit)

    async def diff(self, from_: int, to: int) -> ConfigDiff:
        """What differs between two versions, under today's defaults and without the environment.

        Raises:
            ConfigVersionNotFound: One of them does not exist.
        """
        bare = Layering(self.model, {})
        before, after = [bare.salvaged(version, *await self._layers(version)) for version in (from_, to)]
        return ConfigDiff(from_version=from_, to_version=to, changes=differences(before.config, after.config))

    async def _layers(self, version: int) -> tuple[Values, Values]:
        """What file and API set in a version."""
        if version == 0:
            return {}, {}
        stored = await self._versions.find(version)
        if stored is None:
            raise ConfigVersionNotFound
        return stored.file, stored.api

    def _proposed(self, values: Values | BaseModel, merge: bool) -> Values:
        """The API's layer after a change."""
        snapshot = self._snapshot
        if isinstance(values, BaseModel):
            values = {name: value for name, value in plain(values).items() if name in values.model_fields_set}
        written = without_masks(values, snapshot.config, snapshot.api)
        return {**snapshot.api, **written} if merge else written

    def _restored(self, stored: StoredVersion) -> Snapshot[ConfigModel]:
        snapshot = self._layering.salvaged(stored.entry.version, stored.file, stored.api)
        if lost := sorted(stored.api.keys() - snapshot.api.keys()):
            self._logger.warning("stored configuration no longer valid", service=self.service, fields=lost)
        return snapshot

    async def _change(self, edit: Edit, propose: Callable[[], Values], file: Values | None = None) -> ConfigView:
        """Make one change, alone and to its end."""
        if asyncio.current_task() in self._changing:
            raise RuntimeError("A listener must not change the configuration that it is told about.")
        task = asyncio.create_task(self._change_alone(edit, propose, file))
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    async def _change_alone(self, edit: Edit, propose: Callable[[], Values], file: Values | None) -> ConfigView:
        async with self._lock:
            if self._in_doubt:
                await self._settle_doubt()
            if not edit.meant_for(self.etag):
                raise ConfigVersionConflict
            before = self._snapshot
            return await self._put(before, before.file if file is None else file, propose(), edit)

    async def _settle_doubt(self) -> None:
        """Find out whether the version whose outcome is unknown was stored."""
        stored = await self._versions.find(None)
        self._in_doubt = False
        if stored is not None and stored.entry.version != self.version:
            before, self._snapshot = self._snapshot, self._restored(stored)
            await self._notify(stored.entry, before.config, self.current)

    async def _put(self, before: Snapshot[ConfigModel], file: Values, api: Values, edit: Edit) -> ConfigView:
        """Validate, store, put in force, tell."""
        after = self._layering.built(before.version + 1, file, api)
        if (after.file, after.api) == (before.file, before.api):
            return self.view()
        self._refuse_lockout(after.config, edit)
        changes = differences(before.config, after.config)
        entry = ConfigVersion(
            version=after.version,
            at=self._now(),
            author=edit.author,
            source=edit.source,
            changes=changes,
            note=edit.reason or edit.note,
        )
        self._in_doubt = True
        await self._versions.append(StoredVersion(entry, after.file, after.api))
        self._snapshot = after
        self._in_doubt = False
        self._logger.info(
            "configuration changed",
            service=self.service,
            version=entry.version,
            author=entry.author,
            source=entry.source,
            fields=sorted(changes),
        )
        await self._notify(entry, before.config, after.config)
        return self.view(restarting(self.model, changes))

    def _lockout(self, config: ConfigModel) -> str | None:
        """Why `config` locks people out; None where the configuration in force does just the same."""
        sentence = config.lockout()
        return None if sentence == self.current.lockout() else sentence

    def _refuse_lockout(self, config: ConfigModel, edit: Edit) -> None:
        sentence = self._lockout(config)
        if sentence is not None and not edit.forced:
            raise UnsafeConfig(sentence, hint="Send it again with force and a reason if that is wanted.")

    async def _notify(self, entry: ConfigVersion, before: ConfigModel, after: ConfigModel) -> None:
        change = ConfigChange(
            self.service,
            entry.version,
            entry.author,
            entry.source,
            before,
            after,
            entry.changes,
            restarting(self.model, entry.changes),
        )
        for listener in tuple(self._listeners):
            try:
                told = listener(change)
                if inspect.isawaitable(told):
                    await told
            except Exception:
                self._logger.exception("configuration listener failed", service=self.service, version=entry.version)
