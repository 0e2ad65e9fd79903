"""From the command to ready, and the memory of an idle server. Aim: at most 2 s and 150 MB.

Prints the median of five starts with an empty data directory, then the resident memory of the server itself and of it
with its workers, once it has been idle for some seconds. A bare `import fastapi, uvicorn` in the same run is the
measure of the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

STARTS = 5
IDLE_S = 5.0


def ready_after_s(process: subprocess.Popen[bytes], port: int, began: float) -> float:
    """Seconds until `/readyz` passes."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
            return time.perf_counter() - began
        except OSError:
            time.sleep(0.01)
    raise RuntimeError("The server ended before it was ready.")


def resident_mb(pid: int) -> float:
    """Resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """Its child processes."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start(port: int, folder: str) -> tuple[subprocess.Popen[bytes], float]:
    """A server with an empty data directory, and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "corsac.cli", "serve", "--port", str(port), "--data-directory", folder]
    process = subprocess.Popen(
        command, env={"CORSAC_STARTER": "none"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return process, ready_after_s(process, port, began)


def main() -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fastapi, uvicorn"], check=True)
    bare_s = time.perf_counter() - began
    seconds = []
    for number in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            process, took_s = start(18500 + number, folder)
            seconds.append(took_s)
            if number == STARTS - 1:
                time.sleep(IDLE_S)
                alone = resident_mb(process.pid)
                together = alone + sum(resident_mb(child) for child in children(process.pid))
            process.terminate()
            process.wait(30)
    print(
        f"start to ready {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), aim 2 s;",
        end=" ",
    )
    print(f"importing fastapi and uvicorn alone takes {bare_s:.2f} s here")
    print(f"idle memory {alone:.0f} MB, with workers {together:.0f} MB, aim 150 MB")


if __name__ == "__main__":
    main()
