"""What the world sees of a configuration. Secrets are `***` in all of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from corsac.core.bodies import Reply
from corsac.core.exceptions import FieldError

CONFIG_CHANGED = "config_changed"
CONFIG_REJECTED = "config_rejected"
"""Types of the events that tell of a change, and of a file that was refused."""
Model = TypeVar("Model", bound=BaseModel)
Origin = Literal["default", "file", "api", "environment"]
Source = Literal["api", "file", "rollback"]


class FieldChange(Reply):
    """What one field was and is; two equal masks mean that a secret changed."""

    before: Any = Field(description="The value before; a secret is ***.")
    after: Any = Field(description="The value after; a secret is ***.")


class ConfigVersion(Reply):
    """One entry of the history."""

    version: int = Field(description="Counts from 1 per service.")
    at: datetime = Field(description="When it was made, UTC.")
    author: str = Field(description="Who made it.")
    source: Source = Field(description="The API, the file, or a return to an earlier version.")
    changes: dict[str, FieldChange] = Field(description="What it changed, by field.")
    note: str | None = Field(None, description="Why, in the author's words.")


class ConfigView(Reply):
    """The configuration in force."""

    service: str = Field(description="Whose configuration it is.")
    version: int = Field(description="Its version; 0 before the first change.")
    etag: str = Field(description="Send it as If-Match to change this version and no other.")
    values: dict[str, Any] = Field(description="Every field; a secret is ***.")
    origins: dict[str, Origin] = Field(description="Where each field's value comes from; the environment wins.")
    restart_needed: list[str] = Field(
        default_factory=list, description="Fields just changed that count once the service is started again."
    )


class ConfigDiff(Reply):
    """What differs between two versions, under today's defaults and without the environment."""

    from_version: int = Field(description="The version that `before` is from; 0: nothing set.")
    to_version: int = Field(description="The version that `after` is from.")
    changes: dict[str, FieldChange] = Field(description="What differs, by field.")


class Preview(Reply):
    """What a change would do; nothing was done."""

    valid: bool = Field(description="Whether the change would be taken.")
    changes: dict[str, FieldChange] = Field(description="What would change, by field.")
    restart_needed: list[str] = Field(description="Changed fields that count once the service is started again.")
    errors: list[FieldError] = Field(description="Every invalid place.")
    unsafe: str | None = Field(None, description="Why it would be refused without `force` and a reason.")


@dataclass(frozen=True, slots=True)
class ConfigChange(Generic[Model]):
    """What a listener is told, after the change is stored and in force.

    Args:
        service: Whose configuration changed.
        version: The new version.
        author: Who changed it.
        source: By which way.
        before: The configuration before; holds secrets in clear.
        after: The configuration now; holds secrets in clear.
        changes: What changed, by field, masked.
        restart_needed: Changed fields that count once the service is started again.
    """

    service: str
    version: int
    author: str
    source: Source
    before: Model
    after: Model
    changes: dict[str, FieldChange]
    restart_needed: list[str]

    def summary(self) -> dict[str, Any]:
        """What the event says of it; secrets are masked."""
        changes = {name: change.model_dump(mode="json") for name, change in self.changes.items()}
        told = {"version": self.version, "author": self.author, "source": self.source, "changes": changes}
        return told | {"restart_needed": self.restart_needed}
