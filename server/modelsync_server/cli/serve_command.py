"""`modelsync serve`: a store's origin from the command line; its sockets are server.py."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli.options import StoreArgument


class Front(enum.StrEnum):
    """What may stand in front of our own origin."""

    NGINX = "nginx"


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("serve")(serve)


def serve(
    store: StoreArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="How many serve a directory; one a core if left out.")
    ] = None,
    front: Annotated[
        Front | None,
        typer.Option(help="Have nginx answer, which must be installed: no Python for small objects."),
    ] = None,
    redirect_from: Annotated[
        int | None,
        typer.Option(min=0, metavar="BYTES", help="Send who reads so much or more to the bucket, by a signed URL."),
    ] = None,
    redirect_seconds: Annotated[
        int,
        typer.Option(min=1, max=7 * 24 * 3600, help="How long a signed URL is good; who needs longer gets another."),
    ] = 900,
) -> None:
    """Serve a store to devices; prints one JSON line with its url when it is ready."""
    from datetime import timedelta

    from modelsync_server.origin import server
    from modelsync_server.origin.store_origin import Redirect
    from modelsync_server.store import open_store

    away = None if redirect_from is None else Redirect(redirect_from, timedelta(seconds=redirect_seconds))
    server.serve(open_store(store), host, port, tls_cert, tls_key, typer.echo, processes, away, front)
