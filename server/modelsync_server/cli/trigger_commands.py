"""`modelsync watch` and `modelsync webhook`: publish what appears in a folder or a container. Presentation only."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli.options import KeysOption, StoreArgument, open_store


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("watch")(watch)
    app.command("webhook")(webhook)


def watch(
    store: StoreArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with NAME.onnx, NAME/, NAME.probe.json.")],
    keys: KeysOption = None,
    settle: Annotated[float, typer.Option(min=0.1, help="Seconds that files must stand still.")] = 2.0,
) -> None:
    """Publish each model that appears or changes in a folder; prints one JSON line a version, until SIGTERM."""
    from modelsync_server.triggers.folder_watch import watch as run

    opened = open_store(store, keys).aio

    async def one(name: str, path: Path, probe: Path | None) -> None:
        result = await opened.publish(name, path, probe=probe, untrusted=True)
        if result.fresh:
            line = {"name": result.name, "version": result.version, "manifest": result.digest}
            typer.echo(json.dumps({**line, "install_bytes": result.install_bytes}))
            sys.stdout.flush()

    def complain(text: str) -> None:
        typer.echo(f"modelsync: {text}", err=True)

    _until_signal(lambda stop: run(folder, one, complain, stop, settle_seconds=settle))


def webhook(
    store: StoreArgument,
    uploads: Annotated[str, typer.Option(help="The upload container, azblob://ACCOUNT/CONTAINER.")],
    model: Annotated[list[str], typer.Option(help="A model that may be published this way; repeatable.")],
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key that Event Grid sends (X-Modelsync-Key).")
    ] = None,
    token_issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask for tokens of this issuer (Entra ID) too, or instead.")
    ] = None,
    token_audience: Annotated[
        str, typer.Option(metavar="ID", help="Whom the tokens are for: the webhook's application.")
    ] = "",
    token_application: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Whose tokens they are; repeatable; Event Grid's by default.")
    ] = None,
    keys: KeysOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    memory: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What was dealt with; beside the key's file by default.")
    ] = None,
) -> None:
    """Publish what Event Grid says was uploaded; prints {"url"}, then one JSON line a version, until SIGTERM.

    Put a TLS proxy before it: Event Grid delivers over HTTPS only.
    """
    from aiohttp import web

    from modelsync_protocol.errors import LocalError, UsageError
    from modelsync_server.signin.tokens import Issuer
    from modelsync_server.store import open_store as open_objects
    from modelsync_server.store.azure_account import BlobAddress
    from modelsync_server.triggers.webhook import EVENT_GRID, PATH, Senders, Webhook

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="modelsync: %(message)s")
    try:
        key = key_file.read_text().strip() if key_file is not None else None
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{key_file} can't be read: write the webhook's key into it.") from None
    senders = Senders(
        key,
        Issuer(token_issuer) if token_issuer is not None else None,
        token_audience,
        frozenset(token_application or (EVENT_GRID,)),
    )
    if memory is None:
        if key_file is None:
            raise UsageError("give --memory, a file in which the webhook keeps what it has dealt with.")
        memory = key_file.absolute().with_name(key_file.name + ".dealt-with.json")

    def tell(line: dict[str, object]) -> None:
        typer.echo(json.dumps(line))
        sys.stdout.flush()

    async def run(stop: asyncio.Event) -> None:
        hook = Webhook(open_objects(store), keys, BlobAddress.parse(uploads), model, senders, tell, memory)
        await hook.check_keys()
        runner = web.AppRunner(hook.application(), access_log=None, shutdown_timeout=3.0)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise LocalError(f"can't listen on {host}:{port} ({error.strerror}): choose another --port.") from error
            tell({"url": f"http://{host}:{runner.addresses[0][1]}{PATH}"})
            await stop.wait()
        finally:
            await runner.cleanup()

    _until_signal(run)


def _until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(run())
