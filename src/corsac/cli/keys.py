"""`corsac keys`: on the running server."""

from __future__ import annotations

from typing import Annotated

import typer

from corsac.cli.running import ask
from corsac.settings import Settings

app = typer.Typer(help="API keys of the running server.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="A service's name, `any` or `admin`; may be repeated.")],
    principal: Annotated[str, typer.Option(help="Whom its rows belong to.")] = "owner",
) -> None:
    """Make a key and print its secret, this once."""
    made = ask(Settings(), "POST", "/api/keys", {"name": name, "principal": principal, "scopes": scope})
    print(made["secret"])


@app.command("list")
def list_keys() -> None:
    """List the keys that are not revoked."""
    for key in ask(Settings(), "GET", "/api/keys"):
        print(key["id"], key["principal"], ",".join(key["scopes"]), key["created_at"], key["name"], sep="  ")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `corsac keys list` shows it.")],
) -> None:
    """Revoke a key at once."""
    ask(Settings(), "DELETE", f"/api/keys/{key_id}")
