"""`corsac serve` and `corsac open`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corsac.cli.running import announcement, ask
from corsac.main import run
from corsac.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = None,
    data_directory: Annotated[Path | None, typer.Option(help="Folder of everything that is kept.")] = None,
) -> None:
    """Run the server until it is told to stop."""
    given: dict[str, Any] = {"host": host, "port": port, "data_directory": data_directory}
    run(Settings(**{name: value for name, value in given.items() if value is not None}))


def open_address() -> None:
    """Print an address that lets a browser in, once, within five minutes."""
    settings = Settings()
    ticket = ask(settings, "POST", "/api/session/tickets")["ticket"]
    where = announcement(settings)
    if where is not None:
        print(f"{where.url}/docs#ticket={ticket}")
