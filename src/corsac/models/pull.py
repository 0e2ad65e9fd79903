"""One pull: what is missing, from the first source that has it, kept only if it is right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from corsac.core.exceptions import StorageFull
from corsac.core.storage.files import require_room
from corsac.models.catalog import IndexOrigin, ModelEntry, ModelFile
from corsac.models.index_source import ModelSourceUnavailable
from corsac.models.shelf import ModelCorrupt, Shelf

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

MB = 1_000_000


class Source(Protocol):
    """Fetches files of models from one kind of origin; see `IndexSource`."""

    async def fetch(
        self,
        origin: IndexOrigin,
        targets: Mapping[ModelFile, Path],
        workspace: Path,
        on_bytes: Callable[[int], None],
    ) -> dict[ModelFile, str]:
        """Write files and return the SHA-256 of each.

        Raises:
            ModelSourceUnavailable: It does not answer or does not have them; the next origin is tried.
        """
        ...


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Args:
        name: The model.
        bytes_done: Bytes fetched.
        bytes_total: Bytes to fetch.
        seconds_left: At the speed so far; None before that can be told.
    """

    name: str
    bytes_done: int
    bytes_total: int
    seconds_left: float | None


class Puller:
    """Fetches models onto a shelf.

    Args:
        shelf: Where they go.
        sources: Fetchers by the kind of origin.
        logger: Gets a line for each pull.
        require_room: Raises StorageFull when so many bytes do not fit on a folder's disk.
        monotonic: Seconds, for the speed.
    """

    def __init__(
        self,
        shelf: Shelf,
        sources: Mapping[str, Source],
        logger: Logger,
        *,
        require_room: Callable[[Path, int], None] = require_room,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shelf = shelf
        self.sources = sources
        self.logger = logger
        self.require_room = require_room
        self.monotonic = monotonic

    async def pull(self, entry: ModelEntry, tell: Callable[[PullProgress], None]) -> None:
        """Bring one model onto the shelf; fetches nothing that is there and whole."""
        if await asyncio.to_thread(self._is_whole, entry):
            return
        missing = await asyncio.to_thread(self.shelf.missing, entry)
        source = await self._fetch(entry, missing, tell) if missing else "disk"
        await asyncio.to_thread(self.shelf.put, entry, source)
        self.logger.info("model pulled", model=entry.name, source=source, n_files=len(missing))

    def _is_whole(self, entry: ModelEntry) -> bool:
        manifest = self.shelf.manifest(entry.name)
        if manifest is None or not manifest.fits(entry):
            return False
        try:
            self.shelf.verify(manifest, fully=False)
        except ModelCorrupt as error:
            self.logger.warning("model changed on disk", model=entry.name, detail=error.detail)
            return False
        return True

    async def _fetch(self, entry: ModelEntry, missing: list[ModelFile], tell: Callable[[PullProgress], None]) -> str:
        """Try the origins in order; the kind of the one that served. Wrong contents end it, unhidden."""
        failure = ModelSourceUnavailable(f"No source of this server has {entry.name}.")
        for origin in entry.origins:
            source = self.sources.get(origin.kind)
            if source is None:
                continue
            try:
                report = self._reporter(entry, origin.download_bytes({each.path for each in missing}), tell)
                await self._fetch_from(source, origin, missing, report)
            except ModelSourceUnavailable as error:
                self.logger.warning("model source unavailable", model=entry.name, source=origin.kind)
                failure = error
            else:
                return origin.kind
        raise failure

    async def _fetch_from(
        self, source: Source, origin: IndexOrigin, missing: list[ModelFile], report: Callable[[int], None]
    ) -> None:
        needed = sum(each.size_bytes for each in missing) + origin.room_bytes({each.path for each in missing})
        with self.shelf.incoming() as workspace:
            try:
                self.require_room(workspace, needed)
            except StorageFull as error:
                raise StorageFull(f"The pull needs {needed / MB:.0f} MB of disk. {error.detail}") from error
            parts = {each: workspace / f"{n}.part" for n, each in enumerate(missing)}
            found = await source.fetch(origin, parts, workspace, report)
            await asyncio.to_thread(self.shelf.accept, parts, found)

    def _reporter(self, entry: ModelEntry, total: int, tell: Callable[[PullProgress], None]) -> Callable[[int], None]:
        """Turns bytes into progress that never goes back: pip counts from 0 for each file that it fetches."""
        started = self.monotonic()
        most = 0

        def report(n_bytes: int) -> None:
            nonlocal most
            most = max(most, min(n_bytes, total))
            elapsed = self.monotonic() - started
            tell(PullProgress(entry.name, most, total, elapsed / most * (total - most) if most else None))

        report(0)
        return report
