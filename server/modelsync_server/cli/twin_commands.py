"""`modelsync twin …`: reads and sets twins of any hub, calls methods. Presentation only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsync_protocol.errors import UsageError
from modelsync_protocol.twin import check_model_names
from modelsync_server.cli import tables
from modelsync_server.cli.hub_access import ModuleOption, ServiceOption, StateOption, ask_hub
from modelsync_server.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from modelsync_server.iothub.port import HubService
    from modelsync_server.iothub.service_client import MethodResult

twin_app = typer.Typer(help="Twins of any IoT hub, the local one or Azure's.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `twin` to the main command."""
    app.add_typer(twin_app, name="twin")


DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id.")]


@twin_app.command("get")
def twin_get(
    device: DeviceArgument, module: ModuleOption = None, service: ServiceOption = None, state: StateOption = None
) -> None:
    """Print the twin as JSON."""
    _echo(ask_hub(service, state, lambda client: client.twin(device, module)))


@twin_app.command("list")
def twin_list(
    where: Annotated[str | None, typer.Option(help="A condition of the query language: tags.ring = 'canary'.")] = None,
    as_json: JsonOption = False,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """List devices with what each reports of its models; --json prints a twin a line."""
    from modelsync_server.iothub.port import twins

    found = ask_hub(service, state, lambda client: twins(client, where))
    for twin in found if as_json else ():
        print_json(twin)
    if not as_json:
        tables.show(("device", "connection", "models"), [tables.device(twin) for twin in found])


@twin_app.command("set")
def twin_set(
    device: DeviceArgument,
    patch: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="Merge patch on the desired properties.")],
    module: ModuleOption = None,
    trace: Annotated[
        str | None, typer.Option(metavar="TRACEPARENT", help="Of `publish --trace`: devices report their stages.")
    ] = None,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """Merge JSON into the desired properties (null deletes) and print the new twin."""
    value = _json_argument(patch)
    if not isinstance(value, dict):
        raise UsageError('a merge patch is a JSON object, such as {"modelsync": {"models": {"anomaly": null}}}.')
    check_model_names(value)
    if trace is None:
        _echo(ask_hub(service, state, lambda client: client.set_desired(device, value, module)))
        return
    from modelsync_server.tracing import traced

    work = traced.begin("twin set", trace)
    asked = traced.asking(value, work.parent)
    found = ask_hub(service, state, lambda client: client.set_desired(device, asked, module))
    work.end({"modelsync.device": device})
    _echo(found)


@twin_app.command("tag")
def twin_tag(
    device: DeviceArgument,
    patch: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="Merge patch on the tags.")],
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
) -> None:
    """Merge JSON into the tags (null deletes), by which rollouts choose, and print the new twin."""
    value = _json_argument(patch)
    if not isinstance(value, dict):
        raise UsageError('a merge patch is a JSON object, such as {"ring": "canary"}.')
    _echo(ask_hub(service, state, lambda client: client.update_twin(device, {"tags": value}, module)))


@twin_app.command("invoke")
def twin_invoke(
    device: DeviceArgument,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the direct method.")],
    payload: Annotated[str | None, typer.Argument(metavar="[JSON|@FILE]", help="Its argument.")] = None,
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    timeout: Annotated[int, typer.Option(min=5, max=300, help="Seconds to wait for the answer.")] = 30,
) -> None:
    """Call a direct method of a connected device and print {"status","payload"}."""
    value = None if payload is None else _json_argument(payload)

    async def call(client: HubService) -> MethodResult:
        return await client.invoke(device, method, value, module, response_seconds=timeout)

    answer = ask_hub(service, state, call)
    _echo({"status": answer.status, "payload": answer.payload})


def _json_argument(text: str) -> Any:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{text[1:]} can't be read: {error}.") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is not JSON ({error}); quote it for the shell, or use @FILE.") from error


def _echo(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
