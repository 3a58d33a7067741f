"""`modelsync push` and `modelsync sas`: what goes from a store to a device through the hub. Presentation only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli.hub_commands import ModuleOption, ServiceOption, StateOption, ask_hub
from modelsync_server.cli.options import JsonOption, NameArgument, StoreArgument


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("push")(push)
    app.command("sas")(sas)


def push(
    store: StoreArgument,
    name: NameArgument,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Device id.")],
    version: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a small update over a device's open hub connection, then set the desired version."""
    from modelsync_server.push import push as run
    from modelsync_server.store import open_store

    result = ask_hub(service, state, lambda hub: run(open_store(store), hub, name, device, module, version))
    if as_json:
        document = {"device": device, "module": module, "name": name, "version": result.version}
        typer.echo(json.dumps({**document, "pushed": result.pushed, "reason": result.reason}))
    elif result.pushed is not None:
        typer.echo(f"{device}: {name} version {result.version} was pushed ({result.pushed:,} bytes) and is desired.")
    else:
        typer.echo(f"{device}: {name} version {result.version} is desired and will be fetched: {result.reason}")


def sas(
    store: StoreArgument,
    hours: Annotated[int, typer.Option(min=1, max=24 * 365, help="How long the SAS is valid.")] = 24 * 7,
    device: Annotated[str | None, typer.Option(help="Send it to this device instead of printing it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file (mode 0600), for a module's secret.")] = None,
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """Make a read-only SAS with which devices read a blob store; prints {"origin","expires"} and where it went."""
    import asyncio
    from datetime import timedelta

    from modelsync_protocol.errors import RefusedError, UsageError
    from modelsync_server.store import device_access, durable

    if (device is None) == (out is None):
        raise UsageError("say where the SAS goes: --device ID sends it to a device, --out FILE writes it to a file.")
    access = asyncio.run(device_access(store, timedelta(hours=hours)))
    if out is not None:
        durable.write(out.absolute(), access.sas.encode(), mode=0o600)
    elif device is not None:
        answer = ask_hub(service, state, lambda hub: hub.invoke(device, "secret", {"sas": access.sas}, module))
        if answer.status != 200:
            raise RefusedError(f"{device} does not take the secret (status {answer.status}): update its daemon.")
    document = {"origin": access.origin, "expires": access.expires.isoformat(), "device": device}
    typer.echo(json.dumps({**document, "file": None if out is None else str(out)}))
