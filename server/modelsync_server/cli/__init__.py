"""The command `modelsync`: assembles the sub-commands, and turns our errors into one sentence and an exit code."""

from __future__ import annotations

import sys

import typer

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.cli import (
    device_commands,
    hub_commands,
    keys_commands,
    rollout_commands,
    serve_command,
    store_commands,
    trigger_commands,
)

app = typer.Typer(
    name="modelsync",
    help="Publish machine-learning models to fleets of small devices, for the fewest bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (
    store_commands,
    keys_commands,
    serve_command,
    hub_commands,
    device_commands,
    rollout_commands,
    trigger_commands,
):
    commands.register(app)


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
