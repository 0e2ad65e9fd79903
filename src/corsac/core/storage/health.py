"""Whether what is kept can be kept: the database, the disk, and what takes its room."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corsac.core.health_checks import Check

if TYPE_CHECKING:
    from corsac.core.storage.artifacts import ArtifactStore
    from corsac.core.storage.database import Database

LOW_BYTES = 1 << 30


async def check_storage(root: Path, database: Database, artifacts: ArtifactStore) -> Sequence[Check]:
    """The checks of a data directory.

    Args:
        root: The directory.
        database: Its database.
        artifacts: Its files.
    """
    disk = await asyncio.to_thread(shutil.disk_usage, root)
    kept = await artifacts.usage()
    works = database.healthy
    return [
        Check("storage:database", "pass" if works else "fail", output=None if works else "The last commit failed."),
        Check("storage:free", "pass" if disk.free > LOW_BYTES else "warn", float(disk.free), "bytes"),
        *(Check(f"storage:{kind}", "pass", float(size_bytes), "bytes") for kind, size_bytes in kept.items()),
    ]
