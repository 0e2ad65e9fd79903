"""Events per second of one server-sent stream: Corsac, a raw ASGI loop and sse-starlette, in turn, in one run.

The client reads without parsing, so the servers are what is measured. Every round compares the three, and the ratios
are medians over rounds. Aim: at least 0.5 of the raw loop. sse-starlette is a development tool: where it is not
installed, it is left out.
"""

from __future__ import annotations

import importlib.util
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.overhead import cpu_s, running

N_EVENTS = 100_000
ROUNDS = 7
END = b"event: done"


@dataclass
class Peer:
    """One server and its figures, a value a round."""

    name: str
    pid: int
    port: int
    request: bytes
    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    def round(self) -> None:
        before = cpu_s(self.pid)
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            began = time.perf_counter()
            client.sendall(self.request)
            tail = client.recv(1 << 20)
            first_s = time.perf_counter() - began
            if not tail.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(tail.decode(errors="replace"))
            while END not in tail:
                received = client.recv(1 << 20)
                if not received:
                    raise RuntimeError(f"{self.name} ended early.")
                tail = tail[-len(END) :] + received
            seconds = time.perf_counter() - began
        self.per_second.append(N_EVENTS / seconds)
        self.first_ms.append(first_s * 1000)
        time.sleep(0.1)
        self.cpu_us.append((cpu_s(self.pid) - before) / N_EVENTS * 1e6)


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path}?n={N_EVENTS} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def main() -> None:
    names = ["raw", *(["sse-starlette"] if importlib.util.find_spec("sse_starlette") else [])]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        pid = stack.enter_context(running("benchmarks.streams_corsac", 18493, folder))
        time.sleep(2)
        token = (Path(folder) / "token").read_text().strip()
        ours = Peer("corsac", pid, 18493, get("/api/words/stream", f"Authorization: Bearer {token}"))
        peers = [ours]
        for port, name in enumerate(names, 18494):
            pid = stack.enter_context(running("benchmarks.streams_raw", port, name))
            peers.append(Peer(name, pid, port, get("/")))
        for _ in range(ROUNDS):
            for peer in peers:
                peer.round()
    for peer in peers:
        figures = [statistics.median(values) for values in (peer.per_second, peer.cpu_us, peer.first_ms)]
        print("{:14} {:8.0f} events/s   {:5.2f} us CPU an event   first bytes {:.2f} ms".format(peer.name, *figures))
    for peer in peers[1:]:
        ratios = [us / them for us, them in zip(ours.per_second, peer.per_second, strict=True)]
        aim = ", aim 0.50" if peer.name == "raw" else ""
        print(f"against {peer.name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}){aim}")


if __name__ == "__main__":
    main()
