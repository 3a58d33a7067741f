"""`modelsync environment`: reads options, says what was made. No logic beyond presentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("environment")(environment)


def environment(
    lock: Annotated[
        Path,
        typer.Argument(
            metavar="LOCK|ARCHIVE",
            help="Requirements, all pinned with == and --hash (pip-compile, uv); or the .tar.gz that conda-pack made.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make, then to publish.")],
    wheels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take wheels from this folder, and ask no index.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="N.N", help="The devices' Python; default: the one that modelsync runs on.")
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="The devices' platform by pip's name, manylinux_2_28_aarch64; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files within site-packages to leave out: '*/tests/*'; repeatable."),
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="bin/check-environment imports it on a device; repeatable."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Of an archive: where it will lie on devices, for what has its path inside."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a Python environment that can be published as a tree: relocatable, and the same bytes each time.

    On a device OUT/bin/python is its Python, OUT/bin/check-environment says whether it is whole there.
    """
    from modelsync_protocol.errors import UsageError
    from modelsync_server.environment import building, conda
    from modelsync_server.environment.document import Target

    if conda.is_packed(lock):
        if wheels is not None or python is not None or platform:
            raise UsageError(
                "--wheels, --python and --platform are for a lock; conda-pack's archive has its own Python."
            )
        made = conda.unpack(lock, out, prefix=prefix, exclude=exclude or (), imports=imports or ())
    else:
        if prefix is not None:
            raise UsageError("--prefix is for conda-pack's archives; what is made from a lock may lie anywhere.")
        target = Target(platforms=platform or ()) if python is None else Target(python, platform or ())
        made = building.build(
            lock, out, target=target, from_folder=wheels, exclude=exclude or (), imports=imports or ()
        )
    if as_json:
        typer.echo(json.dumps(made.document() | {"files": made.files, "bytes": made.bytes}))
        return
    packages = ", ".join(f"{name} {version}" for name, version in sorted(made.packages.items()))
    typer.echo(f"{out}: {packages}")
    where = f"Python {made.python} " + ("of the device" if made.interpreter == "device" else "in it")
    typer.echo(f"{made.files:,} files, {made.bytes:,} bytes; {where}, {made.arch or 'any machine'}")
