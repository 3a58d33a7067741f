"""`modelsync inspect`: says what an artifact is, what it refers to and what it would execute. Executes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli import tables

REFUSED = 3


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file or a directory.")],
    forbid_code: Annotated[bool, typer.Option("--forbid-code", help="Exit 3 for what executes code, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a model is, requires, refers to and would execute; exit 3 if it leads out of itself."""
    from modelsync_server.publish.closed import inspect as run

    found, requires = run(path)
    if as_json:
        parts = {name: getattr(found, name) for name in ("refers", "outside", "code", "unreadable")}
        document = {name: [item.document() for item in items] for name, items in parts.items()}
        typer.echo(
            json.dumps({"closed": not found.outside, "formats": found.formats, **document, "requires": requires})
        )
    else:
        for name, kind in sorted(found.formats.items()):
            typer.echo(f"{name}: {kind}")
        for title, items in (
            ("refers to", found.refers),
            ("would execute", found.code),
            ("can't be read", found.unreadable),
            ("LEADS OUT", found.outside),
        ):
            for item in items:
                typer.echo(f"  {title}: {item}")
        if requires:
            typer.echo(f"  requires: {tables.needs(requires)}")
        typer.echo("Closed." if not found.outside else "Not closed: publishing it will be refused.")
    if found.outside or (forbid_code and found.code):
        sys.exit(REFUSED)
