"""`modelsync dashboard`: reads options, serves the operator's page until SIGTERM. No logic beyond presentation."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli.hub_commands import ServiceOption, StateOption, open_hub
from modelsync_server.cli.options import open_store


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("dashboard")(dashboard)


def dashboard(
    store: Annotated[
        str | None, typer.Option("--store", help="To show versions and what updates cost; a directory or azblob://…")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0: any.")] = "127.0.0.1:8090",
    operator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who may act by the link that is printed (loopback only).")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A proxy that signs people in; repeatable.")
    ] = None,
    header: Annotated[str, typer.Option(help="The proxy's header with who it is.")] = "X-Forwarded-User",
    actor: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who of them may act; *: all; repeatable.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(metavar="FILE", help="Append what is done; default: stderr.")] = None,
    price_per_gb: Annotated[float | None, typer.Option(min=0, help="Price of a gigabyte (10⁹ bytes).")] = None,
    currency: Annotated[str, typer.Option(help="Of the price.")] = "EUR",
    image_bytes: Annotated[
        int, typer.Option(min=0, help="What a container image would have cost a device.")
    ] = 60_000_000,
    fresh: Annotated[
        float, typer.Option(min=0.5, help="Seconds for which an answer of the hub is good enough.")
    ] = 30.0,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """Serve the operator's page: the fleet, devices, models, rollouts and what they cost."""
    from aiohttp import web

    from modelsync_protocol.errors import LocalError, UsageError

    try:
        from modelsync_server.dashboard.access import Access
        from modelsync_server.dashboard.acts import Audit
        from modelsync_server.dashboard.answers import Answers
        from modelsync_server.dashboard.app import Dashboard
        from modelsync_server.dashboard.views import Views
    except ImportError as error:
        raise UsageError("the page needs Jinja2: pip install 'modelsync-server[dashboard]'.") from error

    host, _, port_text = listen.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
        port = int(port_text)
    except ValueError:
        raise UsageError(f"--listen {listen!r} is not of the form ADDRESS:PORT, such as 127.0.0.1:8090.") from None
    access = Access(
        loopback=loopback,
        proxies=frozenset(proxy or ()),
        header=header,
        actors=frozenset(actor or ()),
        operator=operator or "",
    )
    opened = None if store is None else open_store(store, None).aio

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with open_hub(service, state) as hub:
            answers = Answers(fresh)
            views = Views(hub, opened, answers, price_per_gb=price_per_gb, currency=currency, image_bytes=image_bytes)
            made = Dashboard(hub, views, answers, access, Audit(audit), live_seconds=max(1.0, fresh / 2))
            runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise LocalError(f"{listen} can't be listened on ({error.strerror}): choose another.") from error
            where = f"http://{listen if port else f'{host}:{runner.addresses[0][1]}'}/"
            typer.echo(f"The page: {where}")
            if operator:
                typer.echo(f"To act as {operator}: {where}signin?token={access.link_token}")
            await stop.wait()
            await runner.cleanup()

    asyncio.run(serve())
