"""The command `modelsync`: assembles the sub-commands, and turns our errors into one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.cli import (
    dashboard_command,
    device_commands,
    hub_commands,
    keys_commands,
    publish_command,
    rollout_commands,
    serve_command,
    store_commands,
    trigger_commands,
    twin_commands,
    update_commands,
)
from modelsync_server.environment import command as environment_command

app = typer.Typer(
    name="modelsync",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for commands in (
    publish_command,
    store_commands,
    keys_commands,
    serve_command,
    hub_commands,
    twin_commands,
    device_commands,
    rollout_commands,
    dashboard_command,
    trigger_commands,
    update_commands,
    environment_command,
):
    commands.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"modelsync {version('modelsync-server')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Publish machine-learning models to fleets of small devices, for the fewest bytes."""


def main() -> None:
    """Run the command line; exits with the code of DESIGN §9."""
    try:
        app()
    except ModelsyncError as error:
        sys.stderr.write(f"modelsync: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"modelsync: {what}{error.strerror or error}.\n")
        sys.exit(5)
