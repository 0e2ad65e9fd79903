"""All layers against none: the same endpoint in Corsac and in bare FastAPI, in turn, in one run.

Prints throughput with 16 connections and latency with one, as ratio and difference. Aim: at least 0.6 of the
throughput, at most 1 ms more at the median.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_connection

from benchmarks.load import load, post

BODY = b'{"text": "The quick brown fox jumps over the lazy dog.", "count": 3}'
ROUNDS = 5


@contextmanager
def running(module: str, port: int, *arguments: str) -> Iterator[int]:
    """A server of `benchmarks` in a process of its own; yields its pid."""
    command = [sys.executable, "-m", module, str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """One server's figures, a value a round."""

    pid: int
    port: int
    request: bytes
    per_second: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def round(self) -> None:
        before = cpu_s(self.pid)
        many = load(self.port, self.request, connections=16, seconds=2)
        self.cpu_us.append((cpu_s(self.pid) - before) / len(many.latencies_s) * 1e6)
        self.per_second.append(many.per_second)
        self.p50_ms.append(load(self.port, self.request, connections=1, seconds=1).percentile_ms(0.5))


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running("benchmarks.echo_bare", 18491) as bare_pid,
        running("benchmarks.echo_corsac", 18492, folder) as corsac_pid,
    ):
        time.sleep(2)
        token = (Path(folder) / "token").read_text().strip()
        bare = Measured(bare_pid, 18491, post("/api/echo/echo", BODY))
        corsac = Measured(corsac_pid, 18492, post("/api/echo/echo", BODY, {"Authorization": f"Bearer {token}"}))
        for _ in range(ROUNDS):
            bare.round()
            corsac.round()
    for name, each in (("bare", bare), ("corsac", corsac)):
        figures = [statistics.median(values) for values in (each.per_second, each.p50_ms, each.cpu_us)]
        print("{:7} {:7.0f} requests/s   p50 {:.3f} ms   {:.0f} us CPU a request".format(name, *figures))
    ratios = [ours / theirs for ours, theirs in zip(corsac.per_second, bare.per_second, strict=True)]
    cpu = [theirs / ours for ours, theirs in zip(corsac.cpu_us, bare.cpu_us, strict=True)]
    added = [ours - theirs for ours, theirs in zip(corsac.p50_ms, bare.p50_ms, strict=True)]
    print(f"throughput ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), aim 0.60")
    print(f"processor ratio  {statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f})")
    print(f"added at p50 {statistics.median(added):.3f} ms, aim at most 1 ms")


if __name__ == "__main__":
    main()
