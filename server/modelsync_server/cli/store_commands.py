"""`modelsync publish|list|price|verify`: the commands that write and read artifacts. No logic beyond presentation."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsync_server.cli.hub_commands import ModuleOption, ServiceOption, StateOption, ask_hub

if TYPE_CHECKING:
    from modelsync_server.rollout.bases import FleetBases

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A directory, or azblob://ACCOUNT/CONTAINER.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
KeysOption = Annotated[str | None, typer.Option("--keys", help="Folder of the private keys (default: MODELSYNC_KEYS).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (publish, list_, price, verify):
        app.command(command.__name__.rstrip("_"))(command)


def publish(
    store: StoreArgument,
    name: NameArgument,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file or a directory.")],
    version: Annotated[int | None, typer.Option(help="Default: the last version + 1.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Recorded inputs and outputs that a device checks.")] = None,
    bases: Annotated[str, typer.Option(help="More versions to make updates from: 3,4,…")] = "",
    hub: Annotated[
        bool, typer.Option("--hub", help="Make updates from exactly the versions that the fleet holds.")
    ] = False,
    max_updates: Annotated[int, typer.Option(min=0, help="With --hub: most updates, most devices first.")] = 5,
    module: ModuleOption = None,
    service: ServiceOption = None,
    state: StateOption = None,
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a model file or directory as a new version."""
    from modelsync_server.cli.progress import Bar
    from modelsync_server.publish.publisher import DEFAULT_BASES
    from modelsync_server.publish.publisher import publish as run
    from modelsync_server.store import open_store

    held = _held(store, name, max_updates, module, service, state) if hub else None
    with Bar() as bar:
        result = asyncio.run(
            run(
                open_store(store),
                keys,
                name,
                path,
                version=version,
                probe=probe,
                bases=[*_versions(bases), *(held.versions if held else ())],
                last=DEFAULT_BASES if held is None else 0,
                progress=bar.update,
            )
        )
    document = {
        "name": result.name,
        "version": result.version,
        "manifest": result.manifest,
        "size": result.size,
        "files": result.files,
        "chunks": result.chunks,
        "install_bytes": result.install_bytes,
        "updates": [{"from": u.base, "bytes": u.bytes, "requests": u.requests} for u in result.updates],
        "advice": [{"text": item.text, "bytes": item.bytes} for item in result.advice],
    }
    if held is not None:
        document["fleet"] = {
            "bases": [{"version": version, "devices": devices} for version, devices in held.chosen],
            "left_out": [{"version": version, "devices": devices} for version, devices in held.left_out],
            "strangers": held.strangers,
        }
    if as_json:
        _print(document)
        return
    if not result.fresh:
        typer.echo(f"{name} version {result.version} has these very bytes already; nothing to publish.")
    else:
        typer.echo(f"{name} version {result.version}: {result.size:,} bytes in {result.chunks} chunks.")
    typer.echo(f"  first install {result.install_bytes:>12,} bytes")
    for item in result.updates:
        typer.echo(f"  from version {item.base:<4} {item.bytes:>9,} bytes")
    for note in result.advice:
        typer.echo(f"  hint: {note.text}")
    for line in held.said(result.install_bytes) if held else ():
        typer.echo(f"  fleet: {line}")


def _held(store: str, name: str, most: int, module: str | None, service: str | None, state: Path | None) -> FleetBases:
    from modelsync_server.rollout.bases import fleet_bases
    from modelsync_server.rollout.pacing import PacedHub
    from modelsync_server.rollout.target import Kind, Target
    from modelsync_server.store import open_store

    target = Target() if module is None else Target(Kind.MODULE, module)
    return ask_hub(service, state, lambda client: fleet_bases(open_store(store), PacedHub(client), name, most, target))


def list_(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show the models and versions of a store."""
    from modelsync_server.store import open_store
    from modelsync_server.trust import read_catalogue

    catalogue = asyncio.run(read_catalogue(open_store(store)))
    document = {
        "models": [
            {
                "name": name,
                "versions": [
                    {"version": version, "manifest": digest} for version, digest in sorted(model.versions.items())
                ],
                "withdrawn": sorted(model.withdrawn),
            }
            for name, model in sorted(catalogue.models.items())
        ]
    }
    if as_json:
        _print(document)
        return
    for name, model in sorted(catalogue.models.items()):
        typer.echo(name)
        for version, digest in sorted(model.versions.items()):
            typer.echo(f"  {version:>6}  {digest[:16]}")
        for version in sorted(model.withdrawn):
            typer.echo(f"  {version:>6}  withdrawn")


def price(
    store: StoreArgument,
    name: NameArgument,
    to: Annotated[int, typer.Option("--to", help="The version to reach.")],
    base: Annotated[int | None, typer.Option("--from", help="The version held; without it, a first install.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an update (or a first install) will cost a device, without doing it."""
    from modelsync_server.publish.verifier import price_of
    from modelsync_server.store import open_store

    plan = asyncio.run(price_of(open_store(store), name, base, to))
    if as_json:
        _print({"kind": plan.kind.value, "bytes": plan.bytes, "requests": plan.http_requests})
    else:
        typer.echo(f"{plan.kind.value}: {plan.bytes:,} bytes in {plan.http_requests} requests")


def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Check every signed version and every update of a store, byte for byte."""
    from modelsync_server.publish.verifier import verify as run
    from modelsync_server.store import open_store

    report = asyncio.run(run(open_store(store)))
    if as_json:
        _print(
            {
                "ok": not report.problems,
                "versions": report.versions,
                "updates": report.updates,
                "problems": list(report.problems),
            }
        )
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{report.versions} versions and {report.updates} updates checked, {len(report.problems)} problems.")
    if report.problems:
        sys.exit(3)


def _versions(text: str) -> list[int]:
    from modelsync_protocol.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--bases takes version numbers divided by commas, not {text!r}.") from None


def _print(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document))
