"""`corsac doctor`: what works on this machine, what is missing, and the command that gets it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

from rich.console import Console
from rich.table import Table

from corsac.cli.models import opened
from corsac.cli.running import announcement
from corsac.settings import Settings

EXTRAS = {
    "espeak": ("espeakng_loader", "soundfile", "scipy"),
    "piper": ("piper", "soundfile", "scipy"),
}
"""The modules that each extra brings; they are looked for, not imported."""
WIDTH = 240
"""Columns; a narrower terminal wraps the lines itself, and a command stays in one piece."""


def doctor() -> None:
    """Say what works here, what is missing, and how to get it."""
    settings = Settings()
    table = Table("what", "state", "to mend it", box=None, pad_edge=False)
    table.add_row("Python", f"{platform.python_version()} on {sys.platform}", "")
    free = shutil.disk_usage(
        settings.data_directory.parent if not settings.data_directory.exists() else settings.data_directory
    )
    table.add_row("data directory", f"{settings.data_directory}, {free.free / 2**30:.1f} GiB free", "")
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        table.add_row(
            f"extra {extra}",
            "missing" if missing else "installed",
            f"pip install 'corsac[{extra}]'" if missing else "",
        )
    store = opened()
    for entry in store.catalog:
        here = store.status(entry.name).state == "present"
        state = "here" if here else f"not here, {entry.size_bytes / 1e6:.0f} MB"
        table.add_row(f"model {entry.name}", state, "" if here else f"corsac models pull {entry.name}")
    where = announcement(settings)
    table.add_row("server", f"running on {where.url}" if where else "not running", "" if where else "corsac serve")
    Console(width=WIDTH, soft_wrap=True).print(table)
