"""`corsac models`: what is here, and what can be pulled."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from corsac.cli.running import announcement, ask
from corsac.core.logging_config import get_service_logger
from corsac.core.storage.lock import DataDirectory
from corsac.main import model_store
from corsac.models.store import ModelStore, PullProgress
from corsac.settings import Settings

app = typer.Typer(help="Models: list and pull.", no_args_is_help=True)


def opened() -> ModelStore:
    """The models of the data directory."""
    directory = DataDirectory(Settings().data_directory)
    directory.create()
    return model_store(directory, get_service_logger("models"))


@app.command("list")
def list_models() -> None:
    """List the models of the catalog and which of them are here."""
    store = opened()
    for entry in store.catalog:
        state = "here" if store.status(entry.name).state == "present" else "not here"
        print(f"{entry.name:28} {entry.size_bytes / 1e6:8.1f} MB  {state:9} {entry.licence}  {entry.sentence}")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="The model's name, as `corsac models list` shows it.")],
) -> None:
    """Pull a model: fetched, verified, and then used by a running server."""
    store = opened()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)

        def show(state: PullProgress) -> None:
            progress.update(task, completed=state.bytes_done, total=state.bytes_total)

        asyncio.run(store.pull(name, show))
    print(f"{name} is here, whole and verified.")
    tell_server()


def tell_server() -> None:
    """Have a running server try again what was refused for want of a model."""
    settings = Settings()
    if announcement(settings) is None:
        return
    for part in ask(settings, "GET", "/api/registry")["parts"]:
        if part["failure"] == "refused":
            ask(settings, "POST", f"/api/registry/{part['name']}/start")
