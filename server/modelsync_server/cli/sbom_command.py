"""`modelsync sbom`: prints the bill of materials of a version. No logic beyond presentation."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from modelsync_server.cli.options import NameArgument, StoreArgument, open_store


def sbom(
    store: StoreArgument,
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Default: the newest.")] = None,
) -> None:
    """Print a version's bill of materials (CycloneDX 1.6, JSON): files, digests, licence, metrics, provenance."""
    typer.echo(json.dumps(open_store(store).sbom(name, version), indent=2, ensure_ascii=False))
