"""`python -m modelsync_server.hub`: the hub's and twin's commands alone, without the rest of `modelsync`."""

from __future__ import annotations

import sys

import typer

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.cli import hub_commands, twin_commands


def main() -> None:
    """Run a command; an error of ours becomes one sentence on stderr and its exit code."""
    app = typer.Typer(no_args_is_help=True)
    hub_commands.register(app)
    twin_commands.register(app)
    try:
        app()
    except ModelsyncError as error:
        sys.stderr.write(f"modelsync: {error}\n")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
