"""A real server in a process of its own, and what a test asks of it from outside.

with Server(folder, plugins=[installed]) as server:
    assert server.ask("GET", "/livez").status == 200
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, TypeVar

COMMAND = [str(Path(sys.executable).with_name("corsac"))]
PLUGINS = Path(__file__).with_name("plugins")
TOKEN = "@TOKEN@"
"""Stands for the owner's token in raw requests."""
SIGNED = f"Authorization: Bearer {TOKEN}"
JSON = "Content-Type: application/json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document, after a look at whether it is one."""
        document: dict[str, Any] = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert document["type"] == f"/docs/errors/{document['reason']}"
        assert document["status"] == self.status
        assert document["title"]
        assert document["detail"]
        assert document["retry"] in ("retry", "retry_higher", "fix_first", "never")
        assert document["request_id"] == self.headers["x-request-id"]
        return document

    @property
    def reason(self) -> str:
        return str(self.problem["reason"])


class Server:
    """`corsac serve` on a free port, without the starter models.

    Args:
        directory: Its data directory.
        plugins: Folders from `install_plugin`.
        environment: More environment variables, such as `CORSAC_STARTER`.
    """

    def __init__(
        self, directory: Path, *, plugins: Iterable[Path] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.environment = isolated(directory, plugins, environment or {})
        self.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Start, or start again on the same directory."""
        self.output = self.directory.with_suffix(".out")
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0"], env=self.environment, stdout=output, stderr=output
            )
        note = self.directory / "server.json"
        announced = eventually(lambda: self._announcement(note), 30, "the server is listening")
        self.url, self.token, self.pid = announced["url"], announced["token"], announced["pid"]
        self.port = int(self.url.rpartition(":")[2])

    def _announcement(self, note: Path) -> dict[str, Any] | None:
        assert self.process.poll() is None, self.output.read_text()
        announced: dict[str, Any] = json.loads(note.read_bytes()) if note.exists() else {}
        return announced if announced.get("pid") == self.process.pid else None

    def stop(self, seconds: float = 25) -> int:
        """End it by SIGTERM; returns its exit code. One that takes longer is killed, and fails the test."""
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"The server did not end within {seconds} s.") from None

    # Asking

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Answer:
        """One request, by the owner unless another key is given; `key=""` shows none."""
        fields = [f"{name}: {value}" for name, value in (headers or {}).items()]
        if key != "":
            fields.append(f"Authorization: Bearer {key or self.token}")
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            fields.append(JSON)
        return self.send(request(method, path, *fields, body=content), timeout_s=timeout_s)

    def connect(self, raw: bytes = b"", timeout_s: float = 30) -> socket.socket:
        """A connection on which `raw` has been sent."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        client.sendall(self._signed(raw))
        return client

    def send(self, raw: bytes, timeout_s: float = 30) -> Answer:
        """Send bytes on a connection of their own and read one answer."""
        began = time.monotonic()
        with self.connect(timeout_s=timeout_s) as client:
            with suppress(ConnectionError):  # refused while we were sending: the answer says so
                client.sendall(self._signed(raw))
            return read_answer(client, began)

    def _signed(self, raw: bytes) -> bytes:
        return raw.replace(TOKEN.encode(), self.token.encode())

    def create_key(self, principal: str, *scopes: str) -> str:
        """The secret of a new key."""
        body = {"name": "test", "principal": principal, "scopes": list(scopes)}
        return str(self.ask("POST", "/api/keys", body).json["secret"])

    def wait_until_ready(self, part: str) -> None:
        """Wait for the start of an engine or service."""
        path = f"/api/registry/{part}"
        eventually(lambda: self.ask("GET", path).json["state"] == "ready", 30, f"{part} is ready")

    # Looking

    def log_lines(self, **values: Any) -> list[dict[str, Any]]:
        """The lines of the log files that have these values."""
        text = b"".join(file.read_bytes() for file in sorted((self.directory / "logs").glob("*.log")))
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if values.items() <= line.items()]

    def wait_for_log(self, seconds: float = 5, **values: Any) -> dict[str, Any]:
        """The last log line with these values, once there is one."""
        lines = eventually(lambda: self.log_lines(**values), seconds, f"a log line has {values}")
        return lines[-1]

    def children(self) -> set[int]:
        """Process ids of its child processes."""
        return {pid for pid, parent in parents().items() if parent == self.pid}

    def half_written_files(self) -> list[Path]:
        """What an upload or a write leaves behind when nobody tidies up."""
        patterns = ("*.tmp", "*.part", "upload-*")
        return [file for pattern in patterns for file in self.directory.rglob(pattern)]


def isolated(directory: Path, plugins: Iterable[Path], more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that knows no settings but a test's own."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CORSAC_")}
    own = {
        "CORSAC_DATA_DIRECTORY": str(directory),
        "CORSAC_STARTER": "none",
        "PYTHONPATH": os.pathsep.join([*map(str, plugins), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    return outside | own | dict(more)


def run_command(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `corsac …` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=isolated(directory, (), environment or {}),
        capture_output=True,
        text=True,
        timeout=30,
    )


def install_plugin(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> Path:
    """Lay out `plugins/<name>.py` as an installed package, found once the folder is on PYTHONPATH.

    Args:
        folder: Made here.
        name: The module's name, and the package's.
        entry_points: Group → name → target.
    """
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, targets in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {target}" for point, target in targets.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(PLUGINS / f"{name}.py", folder)
    return folder


def request(method: str, target: str, *fields: str, body: bytes = b"", host: str = "localhost") -> bytes:
    """The bytes of a request; a body without a length among the header fields gets its own."""
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host else []), *fields]
    if body and not any(each.startswith(("Content-Length:", "Transfer-Encoding:")) for each in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_answer(client: socket.socket, began: float) -> Answer:
    """The next answer on a connection."""
    response = HTTPResponse(client)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read(), time.monotonic() - began)


def eventually(look: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true value of `look`, or a failure that says what did not come true."""
    end = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < end, f"Not within {seconds} s: {what}."
        time.sleep(0.05)
    return value


def parents() -> dict[int, int]:
    """The parent of every process that is not a zombie."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            found[int(status.parent.name)] = int(parent)
    return found
