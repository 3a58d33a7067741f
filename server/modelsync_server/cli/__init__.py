"""The command `modelsync`: assembles the sub-commands, and turns our errors into one sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modelsync_protocol.errors import ModelsyncError

MODULES = {
    "publish_command": ("publish", "environment"),
    "store_commands": ("inspect", "list", "show", "diff", "price", "verify", "sbom", "doctor"),
    "keys_commands": ("init", "refresh", "withdraw"),
    "serve_command": ("serve",),
    "device_commands": ("push", "sas", "export", "import-report", "trace"),
    "dashboard_command": ("dashboard",),
    "trigger_commands": ("watch", "webhook"),
    "update_commands": ("explain", "snap", "retain", "gc", "upgrade-store"),
}
"""Which module of this room has which commands, in the order in which they are shown."""

GROUPS = {"keys": "keys_commands", "hub": "hub_commands", "twin": "twin_commands", "rollout": "rollout_commands"}
"""Which has commands that have commands."""


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each loaded when it is looked at: all of them take a second of processor time to load."""

    def __init__(self) -> None:
        self._where = {name: module for module, names in MODULES.items() for name in names} | GROUPS
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            holder = typer.Typer()
            import_module(f"{__name__}.{self._where[name]}").register(holder)
            self._loaded |= typer.main.get_group(holder).commands
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name], self._where[name] = command, ""

    def __delitem__(self, name: str) -> None:
        del self._where[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class _Main(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()


app = typer.Typer(
    name="modelsync",
    cls=_Main,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
