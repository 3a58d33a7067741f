"""`modelsync serve`: a store's origin from the command line; its sockets are server.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("serve")(serve)


def serve(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store's directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="How many serve; one a core if left out.")
    ] = None,
) -> None:
    """Serve a store to devices; prints one JSON line with its url when it is ready."""
    from modelsync_server.origin import server
    from modelsync_server.store import open_store

    server.serve(open_store(store), host, port, tls_cert, tls_key, typer.echo, processes)
