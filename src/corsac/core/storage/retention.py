"""Which stored files have come to their end. No database in here."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

# A stored file, or one that is being written; others in the folder are not ours.
FILE_NAME = re.compile(r"\.?([0-9a-f]{32})(\.[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that says there is a file.

    Args:
        id: The artifact's.
        kind: The artifact's.
        size_bytes: The file's length.
        created_at: Seconds since the epoch.
        path: Where the file is.
    """

    id: str
    kind: str
    size_bytes: int
    created_at: float
    path: Path


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed.

    Args:
        n_files: Files without a row.
        n_rows: Rows without a file.
        n_expired: Artifacts that were too old or too much.
    """

    n_files: int
    n_rows: int
    n_expired: int


def stored_files(folder: Path) -> dict[Path, str]:
    """The artifacts' files on the disk, finished and unfinished, each with its artifact's id.

    Args:
        folder: Has one folder per kind.
    """
    return {path: match[1] for path in folder.glob("*/*") if (match := FILE_NAME.fullmatch(path.name))}


def orphans(files: dict[Path, str], rows: Collection[Kept], arriving: Collection[str]) -> list[Path]:
    """Files that no row will ever name.

    Args:
        files: Paths and ids, see `stored_files`.
        rows: All there are.
        arriving: Ids of artifacts that are being stored.
    """
    known = {row.path for row in rows}
    return [path for path, artifact_id in files.items() if path not in known and artifact_id not in arriving]


def overdue(rows: Sequence[Kept], not_before: float, max_bytes: int) -> list[Kept]:
    """What is too old, and the oldest of what is too much.

    Args:
        rows: Newest first.
        not_before: Epoch seconds; what was made earlier is too old.
        max_bytes: What may be kept of the rest.
    """
    ended, size_bytes = [], 0
    for row in rows:
        size_bytes += row.size_bytes
        if row.created_at < not_before or size_bytes > max_bytes:
            ended.append(row)
    return ended
