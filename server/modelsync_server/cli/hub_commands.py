"""`modelsync hub …`: starts the local hub, registers devices, prints what was sent to it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated

import typer

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.cli.hub_access import ModuleOption, StateOption, directory_of
from modelsync_server.hub.bulk import add_many, numbered
from modelsync_server.hub.hub import (
    DEFAULT_HOST,
    DEVICE_PORT,
    EVALUATION_SECONDS,
    SERVICE_PORT,
    Hub,
    HubAddress,
    add_device,
    connection_text,
)
from modelsync_server.hub.messages import Messages
from modelsync_server.hub.state import State
from modelsync_server.hub.traffic import Traffic, parse_rates
from modelsync_server.hub.workload import Workload, WorkloadAddress
from modelsync_server.iothub.identity import Identity

_FOLLOW_SECONDS = 0.2

hub_app = typer.Typer(help="A local IoT hub for the demo, tests and sites without Azure.", no_args_is_help=False)
device_app = typer.Typer(help="Devices and modules of the local hub.", no_args_is_help=True)
hub_app.add_typer(device_app, name="device")


def register(app: typer.Typer) -> None:
    """Add `hub` to the main command."""
    app.add_typer(hub_app, name="hub")


@hub_app.callback(invoke_without_command=True)
def hub(
    context: typer.Context,
    state: StateOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on, 127.0.0.x.")] = DEFAULT_HOST,
    service_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the service REST; 0 = any free one.")
    ] = SERVICE_PORT,
    device_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the device side; the SDK only knows 8883.")
    ] = DEVICE_PORT,
    workload: Annotated[
        list[str] | None,
        typer.Option(help="DEVICE/MODULE=SOCKET: IoT Edge workload API; its variables go to SOCKET.env; repeatable."),
    ] = None,
    tier: Annotated[str, typer.Option(help="Refuse requests beyond this tier's rates: S1, S2 or S3.")] = "none",
    rate: Annotated[
        list[str] | None, typer.Option(help="KIND=COUNT/SECONDS, such as queries=20/60, in place of the tier's.")
    ] = None,
    request_log: Annotated[Path | None, typer.Option(help="Append each service request as a JSON line.")] = None,
    evaluate_every: Annotated[
        float, typer.Option(min=1, help="Seconds between two looks at all twins for configurations.")
    ] = EVALUATION_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="Nothing but the JSON line.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log connections on stderr.")] = False,
) -> None:
    """Run the hub until SIGTERM; prints one JSON line {"host","ca","service"} when it is ready."""
    if context.invoked_subcommand is not None:
        # `hub --state DIR device add …`: hand the option on.
        context.obj = state
        return
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    edges = [_parse_workload(text) for text in workload or []]
    address = HubAddress(host, device_port, service_port)
    rates = parse_rates(tier, rate or [])
    with ExitStack() as stack:
        sink = None
        if request_log is not None:
            opened = stack.enter_context(request_log.open("a", encoding="utf-8", buffering=1))
            sink = lambda line: print(line, file=opened)  # noqa: E731 - a file's method does not end the line
        hub = Hub(directory_of(state), address, traffic=Traffic(rates, sink=sink), evaluation_seconds=evaluate_every)
        asyncio.run(_run_hub(hub, edges, as_json))


async def _run_hub(hub: Hub, edges: list[tuple[Identity, Path]], as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(hub)
        for identity, socket in edges:
            api = Workload(started.state, identity, hub.address.host, WorkloadAddress(socket))
            await stack.enter_async_context(api)
            _write_environment(socket, api.environment)
        line = {"host": hub.address.host, "ca": str(started.ca_path.absolute()), "service": str(started.service)}
        typer.echo(json.dumps(line))
        if not as_json and sys.stderr.isatty():
            typer.echo("The hub is ready; `modelsync hub device add ID` registers a device. Ctrl-C ends it.", err=True)
        await stop.wait()


@device_app.command("add")
def device_add(
    context: typer.Context,
    device: Annotated[str | None, typer.Argument(metavar="[ID]", help="Device id.")] = None,
    module: ModuleOption = None,
    count: Annotated[int | None, typer.Option(help="Add so many devices at once, PREFIX0001 and so on.")] = None,
    prefix: Annotated[str, typer.Option(help="What the ids of --count begin with.")] = "device-",
    state: StateOption = None,
    host: Annotated[str | None, typer.Option(help="The hub's address, if it never ran.")] = None,
    x509: Annotated[
        Path | None, typer.Option(help="Folder for a new certificate and key (cert.pem, key.pem) instead of a key.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help='{"device","module","connection_string"}.')] = False,
) -> None:
    """Register a device or module and print its connection string; repeating it changes nothing.

    With --count as many lines, in the order of the ids.
    """
    from modelsync_server.hub import certificates

    if (device is None) == (count is None) or (count is not None and x509 is not None):
        raise UsageError("give one device id, or --count N (and --prefix P); --x509 goes with an id.")
    if device is None:
        _add_many(directory_of(state or _inherited(context)), numbered(prefix, count or 0), module, host, as_json)
        return
    identity = Identity(device, module)
    with State(directory_of(state or _inherited(context))) as opened:
        text = add_device(opened, identity, host)
        if x509 is not None:
            certificates.issue_client(opened.directory, device, x509)
            text = ";".join(part for part in text.split(";") if not part.startswith("SharedAccessKey=")) + ";x509=true"
    line = {"device": device, "module": module, "connection_string": text}
    typer.echo(json.dumps(line) if as_json else text)


def _add_many(directory: Path, devices: list[str], module: str | None, host: str | None, as_json: bool) -> None:
    # Before anything is made on the disk: ids may be wrong.
    identities = [Identity(device) for device in devices]
    modules = [] if module is None else [Identity(device, module) for device in devices]
    with State(directory) as opened:
        for each in filter(None, (identities, modules)):
            add_many(opened, each)
        for device in devices:
            text = connection_text(opened, Identity(device, module), host)
            line = {"device": device, "module": module, "connection_string": text}
            typer.echo(json.dumps(line) if as_json else text)


@device_app.command("list")
def device_list(context: typer.Context, state: StateOption = None) -> None:
    """Print the ids of all devices and modules, one per line (`device` or `device/module`)."""
    with State(directory_of(state or _inherited(context))) as opened:
        for identity in sorted(
            [*opened.identities(modules=False), *opened.identities(modules=True)],
            key=lambda each: each.client_id,
        ):
            typer.echo(identity.client_id)


@hub_app.command("messages")
def messages(
    context: typer.Context,
    state: StateOption = None,
    device: Annotated[str | None, typer.Option(help="Only those of this device and its modules.")] = None,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", help="Go on printing what arrives, until Ctrl-C.")] = False,
) -> None:
    """Print what devices and modules sent to the cloud: one JSON object per line, oldest first."""
    directory = directory_of(state or _inherited(context))
    if not (directory / "messages.db").exists():
        raise UsageError(f"no hub ever ran on {directory}; give --state of one that did.")
    with Messages(directory) as opened:
        found = [item for item in opened.upstream() if device in (None, item.message.sender.device)]
        seq = found[-1].seq if found else 0
        found = found[len(found) - min(last, len(found)) :]
        while True:
            for item in found:
                typer.echo(json.dumps(item.document(), ensure_ascii=False))
            if not follow:
                return
            time.sleep(_FOLLOW_SECONDS)
            found = opened.upstream(after=seq)
            seq = found[-1].seq if found else seq
            found = [item for item in found if device in (None, item.message.sender.device)]


def _inherited(context: typer.Context) -> Path | None:
    found = context.find_object(Path)
    return found if isinstance(found, Path) else None


def _parse_workload(text: str) -> tuple[Identity, Path]:
    name, equals, socket = text.partition("=")
    device, slash, module = name.partition("/")
    if not (equals and slash and socket):
        raise UsageError(f"{text!r} is not of the form DEVICE/MODULE=SOCKET.")
    return Identity(device, module), Path(socket)


def _write_environment(socket: Path, environment: dict[str, str]) -> None:
    """Write SOCKET.env: the variables to start the module with (`env $(cat …)`, EnvironmentFile=, --env-file)."""
    try:
        text = "".join(f"{name}={value}\n" for name, value in environment.items())
        socket.with_name(socket.name + ".env").write_text(text)
    except OSError as error:
        raise LocalError(f"{socket}.env can't be written: {error.strerror or error}.") from error
