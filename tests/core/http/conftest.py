"""A real server in its own process, and a client that is no more than a socket."""

import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest


class RawServer:
    """`raw_app.py` running with these options; everything that it prints comes out of `wait_for`."""

    def __init__(self, listening=True, **options):
        script = str(Path(__file__).with_name("raw_app.py"))
        command = [sys.executable, script, json.dumps(options)]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines, self.seen = queue.Queue(), []
        threading.Thread(target=self._read_lines, daemon=True).start()
        self.port = int(self.wait_for("listening").split()[1]) if listening else None

    def _read_lines(self):
        for line in self.child.stdout:
            self.lines.put(line.strip())

    def wait_for(self, start, seconds=10):
        """The next printed line that starts so."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"No line starts with {start!r}: {self.seen}") from None
            self.seen.append(line)
            if line.startswith(start):
                return line

    def send_signal(self, number=signal.SIGTERM):
        self.child.send_signal(number)

    def exit_code(self, seconds):
        """The exit code, None if the process is still there after so many seconds."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()

    def connect(self, data=b"", receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(5)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    def ask(self, *parts, seconds=1.0, pause=0.2, n_answers=None):
        """What comes back for these bytes, and whether the connection ended."""
        client = self.connect()
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause if part is not parts[-1] else 0)
        except OSError:
            pass  # refused while we were sending: the answer says so
        with client:
            return read(client, seconds, n_answers)

    def stats(self):
        reply, _ = self.ask(request("/stats", "Connection: close"))
        return json.loads(reply.partition(b"\r\n\r\n")[2])


def request(path="/root", *headers, method="GET", host="x"):
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def read(client, seconds, n_answers=None):
    """What comes within so many seconds, and how it ends: "closed", "reset" or "open".

    With `n_answers` there are only 0.15 s left for more once as many have come.
    """
    received, end = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if n_answers and len(statuses(received)) >= n_answers:
                end, n_answers = min(end, time.monotonic() + 0.15), None
            client.settimeout(max(0.01, end - time.monotonic()))
            part = client.recv(65536)
            if not part:
                return received, "closed"
            received += part
    except TimeoutError:
        return received, "open"
    except OSError:
        return received, "reset"
    return received, "open"


def statuses(reply):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", reply)]


@pytest.fixture
def start_server():
    """Start servers that end with the test."""
    servers = []

    def start(**options):
        servers.append(RawServer(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
