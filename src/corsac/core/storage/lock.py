"""The data directory: its folders, the lock that keeps it to one server, and the note where that one is."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corsac.core.exceptions import DataDirectoryLocked, StartRefused
from corsac.core.storage.files import write_atomically

FOLDERS = ("files", "uploads", "models", "logs", "backups", "plugins")
LOCK_TRIES = 3
LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where the running server is.

    Args:
        url: Its address, for example `http://127.0.0.1:8484`.
        pid: Its process.
        token: A credential for it.
    """

    url: str
    pid: int
    token: str


@dataclass(slots=True)
class DataDirectory:
    """One folder with everything that a server keeps.

    Args:
        root: The folder; made by `create`.
        sleep: Waits a number of seconds.
    """

    root: Path
    sleep: Callable[[float], None] = time.sleep
    _lock: int | None = field(default=None, init=False)

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.root / "corsac.sqlite"

    @property
    def token(self) -> Path:
        """The file with the owner's token."""
        return self.root / "token"

    @property
    def files(self) -> Path:
        """Generated and uploaded files, in one folder per kind."""
        return self.root / "files"

    @property
    def uploads(self) -> Path:
        """Files on their way in; what lies here at a start was left behind."""
        return self.root / "uploads"

    @property
    def models(self) -> Path:
        """Pulled models."""
        return self.root / "models"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.root / "logs"

    @property
    def backups(self) -> Path:
        """Copies of the database."""
        return self.root / "backups"

    @property
    def plugins(self) -> Path:
        """Plugins that are not installed as packages."""
        return self.root / "plugins"

    def create(self) -> None:
        """Make the folders that are missing, for the owner's eyes only.

        Raises:
            StartRefused: They cannot be made; the message says why.
        """
        try:
            for folder in (self.root, *(self.root / name for name in FOLDERS)):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def lock(self) -> None:
        """Keep every other server out until `unlock` or the end of this process, however it ends.

        Raises:
            DataDirectoryLocked: Another server is using the directory; the message names its process.
            StartRefused: It cannot be written to.
        """
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            # A server that was killed leaves one behind, and in a container the next one has the same pid.
            self._announcement_file.unlink(missing_ok=True)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def unlock(self) -> None:
        """Let another server in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def announce(self, url: str, token: str) -> None:
        """Tell command-line tools of this user where the server is. The caller holds the lock.

        Args:
            url: The server's address.
            token: A credential for it.
        """
        content = json.dumps(asdict(Announcement(url, os.getpid(), token)))
        write_atomically(self._announcement_file, content.encode(), mode=0o600)

    def withdraw(self) -> None:
        """Take the announcement back."""
        self._announcement_file.unlink(missing_ok=True)

    def read_announcement(self) -> Announcement | None:
        """Where the running server is; None if none is running or it is not listening yet."""
        try:
            content = self._announcement_file.read_bytes()
            descriptor = os.open(self._lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Announcement(**json.loads(content))
        finally:
            os.close(descriptor)
        return None  # nobody holds the lock: it was left behind by a server that was killed

    def _take(self, descriptor: int) -> None:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.sleep(LOCK_PAUSE_S)  # `read_announcement` holds the lock for an instant
            else:
                return
        pid = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
        raise DataDirectoryLocked(
            f"The data directory {self.root} is in use by another server, process {pid}.",
            hint="Stop that one first, or set CORSAC_DATA_DIRECTORY to another folder.",
        )

    def _unusable(self, error: OSError) -> StartRefused:
        return StartRefused(
            f"The data directory {self.root} cannot be used: {error.strerror}.",
            hint="Set CORSAC_DATA_DIRECTORY to a folder that this user may write to.",
        )

    @property
    def _lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def _announcement_file(self) -> Path:
        return self.root / "server.json"
