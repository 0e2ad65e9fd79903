"""The command `corsac`. Each group of commands is a module."""

from __future__ import annotations

import logging
import sys

import structlog
import typer

from corsac.cli import doctor, keys, models, serve, storage
from corsac.core.exceptions import CorsacError, StartRefused

app = typer.Typer(
    name="corsac",
    help="One self-hosted AI backend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.command("open")(serve.open_address)
app.command("backup")(storage.backup)
app.command("restore")(storage.restore)
app.command("repair")(storage.repair)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run a command.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 74 the database is damaged, 75 the data directory is in use, 78 wrong
    settings.
    """
    # A command's own words are its output; `serve` configures the log for itself.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        app()
    except CorsacError as error:
        print(error.detail, file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, StartRefused) else 1)
