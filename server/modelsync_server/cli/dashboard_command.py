"""`modelsync dashboard`: reads options, serves the operator's page until SIGTERM. No logic beyond presentation."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import ssl
from pathlib import Path
from typing import Annotated

import typer

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.cli.hub_access import ServiceOption, StateOption, open_hub
from modelsync_server.cli.options import open_store

SECRET_VARIABLE = "MODELSYNC_OIDC_SECRET"


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command("dashboard")(dashboard)


def dashboard(
    store: Annotated[
        str | None, typer.Option("--store", help="To show versions and what updates cost; a directory or an address")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0: any.")] = "127.0.0.1:8090",
    operator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who may act by the link that is printed (loopback only).")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A proxy that signs people in; repeatable.")
    ] = None,
    header: Annotated[str, typer.Option(help="The proxy's header with who it is.")] = "X-Forwarded-User",
    oidc_issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenID provider that signs people in; with --site.")
    ] = None,
    oidc_client: Annotated[
        str, typer.Option(metavar="ID", help="This page's client id at the provider.")
    ] = "modelsync",
    oidc_secret: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"With the client's secret, else {SECRET_VARIABLE}; none: a public client."),
    ] = None,
    oidc_claim: Annotated[str, typer.Option(metavar="NAME", help="Of the ID token: who somebody is here.")] = "email",
    site: Annotated[
        str, typer.Option(metavar="URL", help="The page's address as browsers see it; https unless on loopback.")
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve https with this chain (PEM); with --certificate-key.")
    ] = None,
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    reader: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Who of those signed in may look; default: all; repeatable."),
    ] = None,
    actor: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who of them may act; *: all that may look; repeatable.")
    ] = None,
    metrics_token: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With a token by which Prometheus may read /metrics.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(metavar="FILE", help="Append what is done; default: stderr.")] = None,
    module: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Modules of this name hold models, too; repeatable.")
    ] = None,
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

    try:
        from modelsync_server.dashboard.acts import Audit
        from modelsync_server.dashboard.answers import Answers
        from modelsync_server.dashboard.app import Dashboard
        from modelsync_server.dashboard.views import Views
        from modelsync_server.signin.access import Access
        from modelsync_server.signin.oidc import Provider, Settings
    except ImportError as error:
        raise UsageError(
            "the page needs Jinja2, PyJWT and prometheus-client: pip install 'modelsync-server[dashboard]'."
        ) from error

    host, port, loopback = _address(listen)
    access = Access(
        loopback=loopback,
        proxies=frozenset(proxy or ()),
        header=header,
        readers=frozenset(reader or ()),
        actors=frozenset(actor or ()),
        operator=operator or "",
        provider=oidc_issuer is not None,
        site=site,
        scraper=_token(metrics_token),
    )
    provider = None
    if oidc_issuer is not None:
        provider = Provider(Settings(oidc_issuer, oidc_client, _secret(oidc_secret), oidc_claim), access)
    context = _context(certificate, certificate_key)
    opened = None if store is None else open_store(store, None).aio

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with open_hub(service, state) as hub:
            answers = Answers(fresh)
            views = Views(hub, opened, answers, price_per_gb, currency, image_bytes, modules=tuple(module or ()))
            live_seconds = max(1.0, fresh / 2)
            made = Dashboard(hub, views, answers, access, Audit(audit), live_seconds, provider=provider)
            runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            try:
                await web.TCPSite(runner, host, port, ssl_context=context).start()
            except OSError as error:
                raise LocalError(f"{listen} can't be listened on ({error.strerror}): choose another.") from error
            scheme = "http" if context is None else "https"
            where = site or f"{scheme}://{listen if port else f'{host}:{runner.addresses[0][1]}'}"
            typer.echo(f"The page: {where.rstrip('/')}/")
            if operator:
                typer.echo(f"To act as {operator}: {where.rstrip('/')}/signin?token={access.link_token}")
            await stop.wait()
            await runner.cleanup()

    asyncio.run(serve())


def _address(listen: str) -> tuple[str, int, bool]:
    """Host, port, and whether it is loopback."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return host, int(port), ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"--listen {listen!r} is not of the form ADDRESS:PORT, such as 127.0.0.1:8090.") from None


def _secret(file: Path | None) -> str | None:
    return os.environ.get(SECRET_VARIABLE) or None if file is None else _read("client's secret", file)


def _token(file: Path | None) -> str:
    token = "" if file is None else _read("token for metrics", file)
    if file is not None and not token:
        raise UsageError(f"{file} is empty: write the token for metrics into it.")
    return token


def _read(what: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"the {what} {file} can't be read ({getattr(error, 'strerror', None) or error}).") from error


def _context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if (certificate is None) != (key is None):
        raise UsageError("--certificate and --certificate-key go together.")
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(f"the certificate {certificate} can't be used ({error.strerror or error}).") from error
    return context
