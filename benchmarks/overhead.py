"""All layers against none: the same endpoint in Corsac and in bare FastAPI, in turn, in one run.

Prints throughput with 16 connections and latency with one, as ratio and difference. Aim: at least 0.6 of the
throughput, at most 1 ms more at the median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection

from benchmarks.load import load, post

BODY = b'{"text": "The quick brown fox jumps over the lazy dog.", "count": 3}'
ROUNDS = 5


@contextmanager
def running(module: str, port: int, *arguments: str) -> Iterator[None]:
    """A server of `benchmarks`, in a process of its own."""
    command = [sys.executable, "-m", module, str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with running("benchmarks.echo_bare", 18491), running("benchmarks.echo_corsac", 18492, folder):
            time.sleep(2)
            token = (Path(folder) / "token").read_text().strip()
            requests = {
                "bare": (18491, post("/api/echo/echo", BODY)),
                "corsac": (18492, post("/api/echo/echo", BODY, {"Authorization": f"Bearer {token}"})),
            }
            rates: dict[str, list[float]] = {"bare": [], "corsac": []}
            medians: dict[str, list[float]] = {"bare": [], "corsac": []}
            for _ in range(ROUNDS):
                for name, (port, request) in requests.items():
                    rates[name].append(load(port, request, connections=16, seconds=2).per_second)
                    medians[name].append(load(port, request, connections=1, seconds=1).percentile_ms(0.5))
    ratios = [ours / bare for ours, bare in zip(rates["corsac"], rates["bare"], strict=True)]
    added = [ours - bare for ours, bare in zip(medians["corsac"], medians["bare"], strict=True)]
    for name in rates:
        print(f"{name:7} {statistics.median(rates[name]):8.0f} requests/s   p50 {statistics.median(medians[name]):.3f} ms")
    print(f"throughput ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), aim 0.60")
    print(f"added at p50 {statistics.median(added):.3f} ms, aim 1 ms")


if __name__ == "__main__":
    main()
