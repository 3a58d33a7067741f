"""`modelsync push|sas|export|import-report|trace`: what goes from a store to devices, and back. Presentation only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelsync_server.cli import tables
from modelsync_server.cli.hub_access import ModuleOption, ServiceOption, StateOption, ask_hub, connection
from modelsync_server.cli.options import (
    JsonOption,
    NameArgument,
    ProgressForm,
    ProgressOption,
    StoreArgument,
    print_json,
)

if TYPE_CHECKING:
    from modelsync_server.media.held import Held


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("push")(push)
    app.command("sas")(sas)
    app.command("export")(export)
    app.command("import-report")(import_report)
    app.command("trace")(trace)


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
    hours: Annotated[
        int | None, typer.Option(min=1, max=24 * 365, help="How long it is valid; default 168, on S3 12.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Send it to this device instead of printing it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file (mode 0600), for a module's secret.")] = None,
    role: Annotated[
        str | None, typer.Option(metavar="ARN", help="On AWS: the role whose rights are cut down to reading the store.")
    ] = None,
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """Make a read-only SAS, or on S3 a key of a session, with which devices read a private store.

    Prints {"origin","expires"} and where it went."""
    import asyncio
    from datetime import timedelta

    from modelsync_protocol.errors import RefusedError, UsageError
    from modelsync_server.store import device_access, durable

    if (device is None) == (out is None):
        raise UsageError("say where the SAS goes: --device ID sends it to a device, --out FILE writes it to a file.")
    access = asyncio.run(
        device_access(store, timedelta(hours=hours or (12 if store.startswith("s3://") else 24 * 7)), role)
    )
    if out is not None:
        durable.write(out.absolute(), access.sas.encode(), mode=0o600)
    elif device is not None:
        answer = ask_hub(service, state, lambda hub: hub.invoke(device, "secret", access.payload, module))
        if answer.status != 200:
            raise RefusedError(f"{device} does not take the secret (status {answer.status}): update its daemon.")
    document = {"origin": access.origin, "expires": access.expires.isoformat(), "device": device}
    typer.echo(json.dumps({**document, "file": None if out is None else str(out)}))


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, such as a stick's; or one file: NAME.tar.")],
    models: Annotated[
        str, typer.Option(metavar="NAME[:VERSION],…", help="Which models; default: all, the newest version of each.")
    ] = "",
    versions: Annotated[int, typer.Option(min=1, help="How many of the newest versions of each model.")] = 1,
    devices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only what these devices lack: twins, `modelsyncd status --json`, reports."),
    ] = None,
    bases: Annotated[
        str | None, typer.Option(metavar="3,4,…", help="Only what devices lack that hold these versions; 0: nothing.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="3.8G", help="Most bytes in all; the newest goes first.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="EXPORT|DATE", help="Only what is newer than an earlier export, or than a day."),
    ] = None,
    progress: ProgressOption = ProgressForm.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Write what devices without a line need onto an offline medium; `modelsyncd import` takes it from there."""
    import asyncio

    from modelsync_protocol import trust
    from modelsync_server.cli.progress import shown as told
    from modelsync_server.media.export import export as run
    from modelsync_server.media.export import parse_size
    from modelsync_server.media.selection import Wanted
    from modelsync_server.store import open_store

    wanted = Wanted(
        models=_models(models),
        versions=versions,
        bases=None if bases is None else _numbers(bases),
        held=None if devices is None else _held(devices),
    )
    most = None if size is None else parse_size(size)
    with told(progress, "export") as update:
        done = asyncio.run(run(open_store(store), out, wanted, size=most, since=since, progress=update))
    if as_json:
        shown = {"out": str(out), "store": done.store, "issued": done.issued, "objects": done.objects}
        shown["expires"] = trust.format_time(done.expires)
        found = {name: list(numbers) for name, numbers in done.models.items()}
        print_json({**shown, "models": found, "bytes": done.total, "written": done.bytes, "left_out": list(done.left)})
        return
    for name, numbers in done.models.items():
        typer.echo(f"{name} {', '.join(map(str, numbers))}")
    for sentence in done.left:
        typer.echo(sentence)
    typer.echo(
        f"{out}: {done.objects} objects, {tables.size(done.total)} bytes; {tables.size(done.bytes)} were written now."
    )
    typer.echo(
        f"devices believe it until {tables.day(done.expires)} UTC; `modelsync refresh` before an export renews that."
    )


def _models(text: str) -> list[tuple[str, int | None]]:
    from modelsync_protocol import names
    from modelsync_protocol.errors import UsageError

    found: list[tuple[str, int | None]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, number = item.partition(":")
        if colon and not number.isdecimal():
            raise UsageError(f"--models takes names, and versions behind a colon (anomaly:3), not {item!r}.")
        found.append((names.check_model_name(name), int(number) if colon else None))
    return found


def _numbers(text: str) -> list[int]:
    from modelsync_protocol.errors import UsageError

    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise UsageError(f"--bases takes version numbers divided by commas, not {text!r}.") from None


def _held(path: Path) -> Held:
    from modelsync_protocol.errors import UsageError
    from modelsync_server.media import held

    try:
        return held.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error


def import_report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="What `modelsyncd export-report` wrote.")],
    service: ServiceOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set reports that were carried here at the hub, each once, as their devices would have done."""
    from modelsync_protocol import caps
    from modelsync_protocol.errors import UsageError
    from modelsync_server.media.import_report import import_report as run

    for file in files:
        try:
            with file.open("rb") as opened:
                data = opened.read(caps.MAX_REPORT_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{file} can't be read: {error.strerror}.") from error
        told = ask_hub(service, state, lambda hub, data=data: run(hub, connection(service, state), data))  # type: ignore[misc]
        if as_json:
            print_json(
                {
                    "device": told.identity.device,
                    "module": told.identity.module,
                    "sequence": told.sequence,
                    "issued": told.issued,
                    "models": sorted(told.models),
                }
            )
        else:
            typer.echo(
                f"{told.identity}: report {told.sequence} of {told.issued} is set ({len(told.models)} model(s))."
            )


def trace(
    device: Annotated[list[str], typer.Argument(metavar="DEVICE…", help="Device ids.")],
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send what devices report of traced updates to a collector, by OTLP (OTEL_EXPORTER_OTLP_ENDPOINT).

    A device reports its stages if its twin asks for it (`twin set --trace`). Sending them twice makes no second span.
    """
    from functools import partial

    from modelsync_server.iothub.service_client import ServiceClient
    from modelsync_server.tracing import spans
    from modelsync_server.tracing.export import export as send

    found = []
    for each in device:
        twin = ask_hub(service, state, partial(ServiceClient.twin, device=each, module=module))
        section = twin["properties"]["reported"].get("modelsync", {})
        models = section.get("models", {}) if isinstance(section, dict) else {}
        for name, model in models.items() if isinstance(models, dict) else ():
            if isinstance(model, dict):
                found += list(spans.of_device(each, name, model, module))
    if found:
        send(found)
    if as_json:
        print_json({"spans": len(found), "traces": sorted({span.place.trace for span in found})})
    else:
        typer.echo(f"{len(found)} span(s) sent." if found else "nothing is traced: see `modelsync twin set --trace`.")
