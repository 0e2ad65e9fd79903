"""An edit of a configuration: by whom, upon which version, how urgently and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Required, TypedDict

from corsac.core.configuration.views import Source


class EditOptions(TypedDict, total=False):
    """Keyword arguments of every change over the API.

    Args:
        author: Who asks.
        if_match: The ETag that the change is meant for; None or `*`: any.
        force: Take also what would lock the author out; needs a reason.
        reason: Kept as the version's note.
    """

    author: Required[str]
    if_match: str | None
    force: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Edit:
    """`EditOptions` completed by where the change comes from.

    Args:
        note: Kept with the version where there is no reason.
    """

    author: str
    if_match: str | None = None
    force: bool = False
    reason: str | None = None
    source: Source = "api"
    note: str | None = None

    @property
    def forced(self) -> bool:
        """Whether it is forced and says why."""
        return self.force and bool((self.reason or "").strip())

    def meant_for(self, etag: str) -> bool:
        """Whether `if_match` allows this version: `*` or a list of entity tags (RFC 9110, section 13.1.1)."""
        if self.if_match is None or self.if_match.strip() == "*":
            return True
        return etag in (each.strip() for each in self.if_match.split(","))
