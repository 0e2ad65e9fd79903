"""How much memory a process has, and whether the kernel has been killing for want of it.

The cap on a child is a watch of its resident memory: RLIMIT_AS would count address space, and model files are
mapped.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path


async def resident_bytes(pid: int) -> int:
    """Resident memory of process `pid` in bytes; 0 when there is no such process."""
    if sys.platform == "linux":
        return _resident_pages(pid) * os.sysconf("SC_PAGE_SIZE")
    ps = await asyncio.create_subprocess_exec("/bin/ps", "-o", "rss=", "-p", str(pid), stdout=asyncio.subprocess.PIPE)
    output, _ = await ps.communicate()
    return int(output or b"0") * 1024


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    except (OSError, IndexError):  # gone, or going
        return 0


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not count them."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
