"""`modelsync watch` and `modelsync webhook`: publish what appears or moves. Presentation only."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsync_server.cli.options import KeysOption, StoreArgument, open_store

if TYPE_CHECKING:
    from aiohttp import web

    from modelsync_server.publish.publisher import Release
    from modelsync_server.sources.port import Resolved


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("watch")(watch)
    app.command("webhook")(webhook)


def watch(
    first: Annotated[
        str,
        typer.Argument(
            metavar="STORE|SOURCE", help="The store; or what is watched, such as mlflow:models:/NAME@ALIAS."
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="DIR|STORE", help="Folder with NAME.onnx, NAME/, NAME.probe.json; or the store.")
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="With a source: the model that it is published as.")
    ] = None,
    keys: KeysOption = None,
    settle: Annotated[float, typer.Option(min=0.1, help="Of a folder: seconds that files must stand still.")] = 2.0,
    every: Annotated[float, typer.Option(min=1, help="Of a source: seconds between two looks.")] = 60.0,
    webhook_secret: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of an MLflow alias: listen for its webhooks too; the secret they are signed by."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="With --webhook-secret: address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --webhook-secret; 0: any free one.")] = 0,
    memory: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a source: where it is remembered what was published.")
    ] = None,
) -> None:
    """Publish each model that appears or changes in a folder, or what a registry's name means whenever it moves.

    `watch STORE DIR`, or `watch SOURCE STORE NAME`. Prints one JSON line a version, until SIGTERM.
    """
    from modelsync_protocol.errors import UsageError
    from modelsync_server.sources import fetching

    if fetching.is_source(first):
        if name is None:
            raise UsageError("a source is published as some model: give STORE and NAME after it.")
        _watch_source(first, second, name, keys, every, webhook_secret, (host, port), memory)
    elif name is not None:
        raise UsageError(
            f"{first!r:.120} is no source: use STORE DIR, or SOURCE STORE NAME with a source such as hf:ORG/REPO."
        )
    elif webhook_secret is not None or memory is not None:
        raise UsageError("--webhook-secret and --memory are for a source, not for a folder.")
    else:
        _watch_folder(first, Path(second), keys, settle)


def _watch_folder(store: str, folder: Path, keys: str | None, settle: float) -> None:
    from modelsync_server.triggers.folder_watch import watch as run

    opened = open_store(store, keys).aio

    async def one(name: str, path: Path, probe: Path | None) -> None:
        result = await opened.publish(name, path, probe=probe, untrusted=True)
        if result.fresh:
            line = {"name": result.name, "version": result.version, "manifest": result.digest}
            _tell({**line, "install_bytes": result.install_bytes})

    _until_signal(lambda stop: run(folder, one, _complain, stop, settle_seconds=settle))


def _watch_source(
    uri: str,
    store: str,
    name: str,
    keys: str | None,
    every: float,
    secret: Path | None,
    address: tuple[str, int],
    memory: Path | None,
) -> None:
    from modelsync_protocol import names
    from modelsync_protocol.errors import UsageError
    from modelsync_server.sources import fetching
    from modelsync_server.sources.mlflow_registry import MlflowModel
    from modelsync_server.store import open_store as open_objects
    from modelsync_server.triggers.mlflow_webhook import PATH, MlflowWebhook
    from modelsync_server.triggers.service_keys import check_service_keys
    from modelsync_server.triggers.source_watch import SourceWatch, memory_file
    from modelsync_server.trust import Repository

    source, objects = fetching.parse(uri), open_objects(store)
    kept = memory or memory_file(objects.url, names.check_model_name(name), source.uri)
    alias = source.watched if isinstance(source, MlflowModel) else None
    if secret is not None and alias is None:
        raise UsageError("--webhook-secret is for an alias in MLflow, such as mlflow:models:/anomaly@champion.")

    def told(made: Release, resolved: Resolved) -> None:
        line = {"name": made.name, "version": made.version, "manifest": made.digest}
        _tell({**line, "install_bytes": made.install_bytes, "source": resolved.revision})

    async def run(stop: asyncio.Event) -> None:
        hint = asyncio.Event()
        watch = SourceWatch(source, objects, keys, name, told, _complain, kept)
        if secret is None or alias is None:
            await Repository.open(objects, keys)  # keys that are missing are told at once
            await watch.run(stop, hint, every)
            return
        hook = MlflowWebhook(_read_secret(secret), *alias, hint.set)
        await check_service_keys(objects, keys, [name])
        async with _listening(hook.application(), *address) as url:
            _tell({"url": f"{url}{PATH}"})
            await watch.run(stop, hint, every)

    _until_signal(run)


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
    from modelsync_protocol.errors import UsageError
    from modelsync_server.signin.tokens import Issuer
    from modelsync_server.store import open_store as open_objects
    from modelsync_server.store.azure_account import BlobAddress
    from modelsync_server.triggers.webhook import EVENT_GRID, PATH, Senders, Webhook

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="modelsync: %(message)s")
    key = _read_secret(key_file) if key_file is not None else None
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

    async def run(stop: asyncio.Event) -> None:
        hook = Webhook(open_objects(store), keys, BlobAddress.parse(uploads), model, senders, _tell, memory)
        await hook.check_keys()
        async with _listening(hook.application(), host, port) as url:
            _tell({"url": f"{url}{PATH}"})
            await stop.wait()

    _until_signal(run)


@asynccontextmanager
async def _listening(application: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application; yields its address. LocalError if the port is taken."""
    from aiohttp import web

    from modelsync_protocol.errors import LocalError

    runner = web.AppRunner(application, access_log=None, shutdown_timeout=3.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise LocalError(f"can't listen on {host}:{port} ({error.strerror}): choose another --port.") from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _read_secret(file: Path) -> str:
    from modelsync_protocol.errors import UsageError

    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{file} can't be read: write the webhook's key into it.") from None


def _tell(line: dict[str, object]) -> None:
    typer.echo(json.dumps(line))
    sys.stdout.flush()


def _complain(text: str) -> None:
    typer.echo(f"modelsync: {text}", err=True)


def _until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(run())
