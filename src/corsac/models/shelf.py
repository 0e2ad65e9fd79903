"""How models lie on disk: contents by hash, one manifest and one folder for each name.

blobs/<sha256>            the contents, read-only
manifests/<name>.json     which files a model has, and the stamps that its files had when they were verified
folders/<name>/<path>     the same files under their own names (hard links), for engines
incoming/<random>/        what is being fetched; never read by anything else
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from corsac.core.exceptions import CorsacError, EngineUnavailable
from corsac.core.storage.files import sync, sync_folder, write_atomically
from corsac.models.catalog import FilePath, ModelEntry, ModelFile, ModelName, Sha256
from corsac.models.file_formats import HEAD_BYTES, check_format

_NAME = TypeAdapter(ModelName)


class ModelMissing(EngineUnavailable):
    """The model has not been pulled.

    The hint gives the command that pulls it.
    """

    reason = "MODEL_MISSING"


class ModelCorrupt(EngineUnavailable):
    """A model's file changed on disk after it was verified.

    It is not used. Pull the model again; the detail names the expected hash and the one that was found.
    """

    reason = "MODEL_CORRUPT"


class HashMismatch(CorsacError):
    """A fetched file is not the one that the catalog promises.

    It was removed. The detail names the expected hash and the one that was found. Pull again once, in case
    the transfer broke; if it stays, the source is broken or tampered with.
    """

    status, reason, retry = 502, "MODEL_HASH_MISMATCH", "never"


class _Stamped(BaseModel):
    """A file of a pulled model and the stamps by which a change is noticed without hashing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: FilePath
    sha256: Sha256
    stamp: Annotated[tuple[int, int, int], Field(description="Size in bytes, mtime in ns, inode.")]


class Manifest(BaseModel):
    """What is kept about a pulled model.

    Attributes:
        name: The model's name.
        source: The kind of source that it came from.
        files: Its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    source: str
    files: tuple[_Stamped, ...]

    def fits(self, entry: ModelEntry) -> bool:
        """Whether these are still the files that the catalog promises."""
        return {(each.path, each.sha256) for each in self.files} == {(each.path, each.sha256) for each in entry.files}


class Shelf:
    """Files of models below one folder. All methods block for as long as the disk takes.

    Args:
        root: The folder; made when something is put there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def names(self) -> list[str]:
        """Names of the models with a readable manifest."""
        found = (_named(path.stem) for path in sorted((self.root / "manifests").glob("*.json")))
        return [each for each in found if each is not None and self.manifest(each) is not None]

    def manifest(self, name: str) -> Manifest | None:
        """What is kept about a model; None if there is nothing readable."""
        try:
            found = Manifest.model_validate_json(self._manifest_path(name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return found if found.name == name else None

    def folder(self, name: str) -> Path:
        """Where a model's files are under their own names."""
        return self.root / "folders" / _escaped(name)

    def is_unchanged(self, manifest: Manifest) -> bool:
        """Whether all files have the stamps that they had when they were verified."""
        return all(_stamp(self._view(manifest.name, each.path)) == each.stamp for each in manifest.files)

    def verify(self, manifest: Manifest, *, fully: bool) -> None:
        """Check a model's files.

        Args:
            manifest: The model's.
            fully: Hash all files; otherwise those whose stamps changed.

        Raises:
            ModelCorrupt: A file is missing or has another hash than it should.
        """
        for each in manifest.files:
            path = self._view(manifest.name, each.path)
            if fully or _stamp(path) != each.stamp:
                found = sha256_of(path) or "nothing"
                if found != each.sha256:
                    raise ModelCorrupt(
                        f"The file {each.path} of {manifest.name} changed on disk: "
                        f"its SHA-256 should be {each.sha256}, found was {found}.",
                        hint=f"corsac models pull {manifest.name}",
                    )
        if not self.is_unchanged(manifest):  # copied or restored, with the right contents
            self._write_manifest(manifest.name, manifest.source, {each.path: each.sha256 for each in manifest.files})

    def missing(self, entry: ModelEntry) -> list[ModelFile]:
        """The files of a model whose contents are not here, whole."""
        return [each for each in entry.files if sha256_of(self._blob(each.sha256)) != each.sha256]

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty folder on the same disk that is removed at the end, with all that is in it."""
        (self.root / "incoming").mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.root / "incoming"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_incoming(self) -> None:
        """Remove what a killed process left behind. Only while nothing is being pulled."""
        shutil.rmtree(self.root / "incoming", ignore_errors=True)

    def accept(self, parts: Mapping[ModelFile, Path], digests: Mapping[ModelFile, str]) -> None:
        """Keep fetched files if all of them are the right ones.

        Args:
            parts: Where each file was fetched to, on the same disk.
            digests: SHA-256 of what was fetched.

        Raises:
            HashMismatch: One is another file than it should be.
            ModelFormatNotAllowed: One may carry code.
        """
        for file, part in parts.items():
            if digests[file] != file.sha256:
                raise HashMismatch(
                    f"The file {file.path} is not the expected one: "
                    f"its SHA-256 should be {file.sha256}, found was {digests[file]}."
                )
            with part.open("rb") as content:
                check_format(file.path, content.read(HEAD_BYTES))
                sync(content.fileno())
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        for file, part in parts.items():
            part.chmod(0o444)
            part.replace(self._blob(file.sha256))
        sync_folder(self.root / "blobs")

    def put(self, entry: ModelEntry, source: str) -> None:
        """Show a model whose contents are all here under its name."""
        folder = self.folder(entry.name)
        shutil.rmtree(folder, ignore_errors=True)
        for file in entry.files:
            view = self._view(entry.name, file.path)
            view.parent.mkdir(parents=True, exist_ok=True)
            _link(self._blob(file.sha256), view)
        self._write_manifest(entry.name, source, {each.path: each.sha256 for each in entry.files})

    def remove(self, name: str) -> int:
        """Forget a model, and the contents that no other model shares.

        Returns:
            Bytes freed; 0 if it was not here.
        """
        manifest = self.manifest(name)
        self._manifest_path(name).unlink(missing_ok=True)
        shutil.rmtree(self.folder(name), ignore_errors=True)
        if manifest is None:
            return 0
        others = (self.manifest(each) for each in self.names())
        shared = {file.sha256 for other in others if other for file in other.files}
        freed = 0
        for blob in {self._blob(each.sha256) for each in manifest.files if each.sha256 not in shared}:
            freed += (_stamp(blob) or (0,))[0]
            blob.unlink(missing_ok=True)
        return freed

    def _write_manifest(self, name: str, source: str, hashes: dict[str, str]) -> None:
        files = [
            _Stamped(path=path, sha256=sha256, stamp=_stamp(self._view(name, path)) or (0, 0, 0))
            for path, sha256 in hashes.items()
        ]
        content = Manifest(name=name, source=source, files=tuple(files)).model_dump_json(indent=1)
        path = self._manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _view(self, name: str, path: str) -> Path:
        return self.folder(name) / path

    def _manifest_path(self, name: str) -> Path:
        return self.root / "manifests" / f"{_escaped(name)}.json"


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal; None if there is no such file, or a pipe or device in its place."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _escaped(name: str) -> str:
    """A model's name as one part of a path: names have no `@`, and one `:` at most.

    Raises:
        ValidationError: This is no name of a model.
    """
    return _NAME.validate_python(name).replace(":", "@")


def _named(stem: str) -> str | None:
    try:
        return _NAME.validate_python(stem.replace("@", ":"))
    except ValidationError:
        return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _link(blob: Path, view: Path) -> None:
    """A second name for the same contents; a symbolic one where the file system has no hard links."""
    try:
        os.link(blob, view)
    except OSError:
        view.symlink_to(os.path.relpath(blob, view.parent))
