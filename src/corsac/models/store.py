"""Pulled models: fetched once, verified, noticed when they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from corsac.core.exceptions import Conflict
from corsac.core.service import Refused
from corsac.core.storage.files import require_room
from corsac.models.catalog import Catalog, ModelEntry, ModelUnknown
from corsac.models.pull import MB, Puller, PullProgress, Source
from corsac.models.shelf import HashMismatch, Manifest, ModelCorrupt, ModelMissing, Shelf

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

__all__ = [
    "HashMismatch",
    "ModelCorrupt",
    "ModelMissing",
    "ModelStatus",
    "ModelStore",
    "PullProgress",
    "Source",
]

MAX_PULLS = 2


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a model of the catalog is.

    Args:
        name: The model.
        state: `changed` files are hashed before they are used.
        size_bytes: What it takes on disk when it is here.
        source: Kind of the source that it came from, if it is here.
        progress: Of the pull, while it is pulled.
    """

    name: str
    state: Literal["absent", "pulling", "present", "changed"]
    size_bytes: int
    source: str | None = None
    progress: PullProgress | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    """One pull and everybody who waits for it."""

    task: asyncio.Task[None] = field(init=False)
    listeners: list[Callable[[PullProgress], None]] = field(default_factory=list)
    progress: PullProgress | None = None

    def tell(self, progress: PullProgress) -> None:
        self.progress = progress
        for each in tuple(self.listeners):
            each(progress)


class ModelStore:
    """The models of one data directory. Implements `corsac.core.service.ModelFiles`.

    Args:
        root: Their folder, `<data directory>/models`.
        catalog: The models that can be had.
        sources: Fetchers by the kind of origin, for example `{"index": IndexSource(logger)}`.
        logger: Gets a line for each pull.
        require_room: Raises StorageFull when so many bytes do not fit on a folder's disk.
        monotonic: Seconds, for the speed of pulls.
    """

    def __init__(
        self,
        root: Path,
        catalog: Catalog,
        sources: Mapping[str, Source],
        *,
        logger: Logger,
        require_room: Callable[[Path, int], None] = require_room,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.catalog = catalog
        self._shelf = Shelf(root)
        self._puller = Puller(self._shelf, sources, logger, require_room=require_room, monotonic=monotonic)
        self._flights: dict[str, _Flight] = {}
        self._turns = asyncio.Semaphore(MAX_PULLS)

    def folder(self, name: str) -> Path:
        """The folder with the verified files of a model. Blocks while changed files are hashed.

        Raises:
            Refused: It is not here, or a file changed; the hint is the command that pulls it.
        """
        try:
            entry = self.catalog.entry(name)
            self._shelf.verify(self._manifest(entry), fully=False)
        except ModelUnknown as error:
            raise Refused(error.detail) from error
        except (ModelMissing, ModelCorrupt) as error:
            raise Refused(error.detail, error.hint) from error
        return self._shelf.folder(name)

    def installed(self) -> list[str]:
        """Names of the models that are here, also of those that the catalog no longer has."""
        return self._shelf.names()

    def status(self, name: str) -> ModelStatus:
        """How a model is, without hashing it.

        Raises:
            ModelUnknown: The catalog does not have it.
        """
        entry = self.catalog.entry(name)
        flight = self._flights.get(name)
        if flight is not None:
            return ModelStatus(name, "pulling", entry.size_bytes, progress=flight.progress)
        manifest = self._shelf.manifest(name)
        if manifest is None or not manifest.fits(entry):
            return ModelStatus(name, "absent", entry.size_bytes)
        state: Literal["present", "changed"] = "present" if self._shelf.is_unchanged(manifest) else "changed"
        return ModelStatus(name, state, entry.size_bytes, manifest.source)

    async def verify(self, name: str) -> None:
        """Hash all files of a model.

        Raises:
            ModelUnknown: The catalog does not have it.
            ModelMissing: It is not here.
            ModelCorrupt: A file changed; the detail names both hashes.
        """
        manifest = self._manifest(self.catalog.entry(name))
        await asyncio.to_thread(self._shelf.verify, manifest, fully=True)

    async def remove(self, name: str) -> int:
        """Delete a model. What others share stays.

        Returns:
            Bytes freed; 0 if it was not here.

        Raises:
            ModelUnknown: Neither the catalog nor the disk has it.
            Conflict: It is being pulled.
        """
        if name in self._flights:
            raise Conflict("This model is being pulled; cancel the pull first.")
        if name not in self.installed():
            self.catalog.entry(name)
        return await asyncio.to_thread(self._shelf.remove, name)

    def clear_leftovers(self) -> None:
        """Remove what a killed server left of pulls. Call it at the start, before any pull."""
        self._shelf.clear_incoming()

    async def pull(self, name: str, on_progress: Callable[[PullProgress], None] = lambda progress: None) -> None:
        """Fetch what is missing of a model; returns when it is here, verified.

        Two models are fetched at a time. Calls for one model share one pull, which ends early when the last
        of them is cancelled, and then leaves nothing behind.

        Args:
            name: The model.
            on_progress: Told how far it is; must not raise.

        Raises:
            ModelUnknown: The catalog does not have it.
            StorageFull: It does not fit on the disk.
            ModelSourceUnavailable: No source has it or answers.
            HashMismatch, ModelPackageInvalid, ModelFormatNotAllowed: A source gave something else.
        """
        entry = self.catalog.entry(name)
        flight = self._flights.get(name) or self._start(entry)
        flight.listeners.append(on_progress)
        try:
            await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            flight.listeners.remove(on_progress)
            if not flight.listeners and not flight.task.done():
                self._land(name, flight)
                flight.task.cancel()
                await asyncio.gather(flight.task, return_exceptions=True)
            raise

    def _start(self, entry: ModelEntry) -> _Flight:
        flight = self._flights[entry.name] = _Flight()
        flight.task = asyncio.create_task(self._fly(entry, flight), name=f"pull {entry.name}")
        return flight

    async def _fly(self, entry: ModelEntry, flight: _Flight) -> None:
        try:
            async with self._turns:
                await self._puller.pull(entry, flight.tell)
        finally:
            self._land(entry.name, flight)

    def _land(self, name: str, flight: _Flight) -> None:
        """From here on a pull of this name starts anew."""
        if self._flights.get(name) is flight:
            del self._flights[name]

    def _manifest(self, entry: ModelEntry) -> Manifest:
        """What is kept of a model that is here.

        Raises:
            ModelMissing: It is not.
        """
        manifest = self._shelf.manifest(entry.name)
        if manifest is None or not manifest.fits(entry):
            raise ModelMissing(
                f"The model {entry.name} ({entry.size_bytes / MB:.0f} MB) has not been pulled.",
                hint=f"corsac models pull {entry.name}",
            )
        return manifest
