"""`modelsync init|refresh|withdraw|keys …`: the commands that sign. No logic beyond reading and printing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelsync_server.trust import Repository

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A directory, or azblob://ACCOUNT/CONTAINER.")]
KeysOption = Annotated[str | None, typer.Option("--keys", help="Folder of the private keys (default: MODELSYNC_KEYS).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RoleArgument = Annotated[
    str, typer.Argument(metavar="ROLE", help="root, targets, snapshot, timestamp, models; or online: the last three.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("init")(init)
    app.command("refresh")(refresh)
    app.command("withdraw")(withdraw)
    keys = typer.Typer(name="keys", help="Change who signs.", no_args_is_help=True)
    keys.command("list")(keys_list)
    keys.command("add")(keys_add)
    keys.command("rotate")(keys_rotate)
    keys.command("revoke")(keys_revoke)
    app.add_typer(keys)


def init(
    store: StoreArgument,
    keys: KeysOption = None,
    root_keys: Annotated[int, typer.Option(help="How many root keys to make.")] = 1,
    root_threshold: Annotated[int, typer.Option(help="How many of them must sign a new root.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a store and its keys."""
    from modelsync_server.store import create_store
    from modelsync_server.trust import initialise

    place = create_store(store)
    made = asyncio.run(initialise(place, keys, root_keys, root_threshold))
    if as_json:
        _print({"store": place.url, "trust": str(made.trust_file)})
        return
    typer.echo(f"{place.url} is a store now.")
    typer.echo(f"  for devices      {made.trust_file}")
    typer.echo(f"  private keys in  {made.keys.folder}")
    typer.echo("Move its folder offline/ to a safe place once every model has its first version.")


def refresh(store: StoreArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Sign what expires soonest again; let a timer run this daily."""
    from modelsync_protocol import trust

    async def run() -> tuple[str, tuple[str, ...]]:
        report = await (await _open(store, keys)).refresh()
        return trust.format_time(report.expires), report.warnings

    expires, warnings = asyncio.run(run())
    for warning in warnings:
        typer.echo(f"modelsync: warning: {warning}", err=True)
    if as_json:
        _print({"expires": expires, "warnings": list(warnings)})
    else:
        typer.echo(f"Refreshed; devices believe it until {expires}.")


def withdraw(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version to take back.")],
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a version back: no device fetches or activates it again."""

    async def run() -> list[int]:
        catalogue = await (await _open(store, keys)).withdraw(name, version)
        return sorted(catalogue.model(name).withdrawn)

    withdrawn = asyncio.run(run())
    if as_json:
        _print({"name": name, "withdrawn": withdrawn})
    else:
        typer.echo(f"{name} version {version} is withdrawn.")


def keys_list(store: StoreArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Show every key, what it signs, and whether it can sign here."""
    from modelsync_server.trust.rotation import describe

    async def run() -> list[dict[str, object]]:
        return describe(await _open(store, keys))

    found = asyncio.run(run())
    if as_json:
        _print({"keys": found})
        return
    for item in found:
        roles = item["roles"]
        where = "here" if item["here"] else "not here"
        typer.echo(f"{str(item['keyid'])[:16]}  {where:<8}  {', '.join(roles) if isinstance(roles, list) else ''}")


def keys_add(
    store: StoreArgument,
    role: RoleArgument,
    keys: KeysOption = None,
    uri: Annotated[str | None, typer.Option(help="A signer's URI (azurekms:…); default: a new key file.")] = None,
    public: Annotated[Path | None, typer.Option(help="The signer's public key, PEM.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let one more key sign for a role."""
    from modelsync_server.trust import rotation
    from modelsync_server.trust.keys import external_entry

    entry = external_entry(uri, public)

    async def run() -> list[str]:
        return await rotation.add_key(await _open(store, keys), role, entry)

    _show(asyncio.run(run()), as_json, f"{role} has one more key")


def keys_rotate(store: StoreArgument, role: RoleArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Replace a role's keys by new ones."""
    from modelsync_server.trust import rotation

    async def run() -> list[str]:
        return await rotation.rotate(await _open(store, keys), role)

    _show(asyncio.run(run()), as_json, f"{role} has new keys")


def keys_revoke(
    store: StoreArgument,
    keyid: Annotated[str, typer.Argument(metavar="KEYID", help="The key's id or its beginning.")],
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key sign for nothing any more."""
    from modelsync_server.trust import rotation

    async def run() -> list[str]:
        return await rotation.revoke(await _open(store, keys), keyid)

    roles = asyncio.run(run())
    if as_json:
        _print({"revoked": keyid, "roles": roles})
    else:
        typer.echo(f"{keyid} no longer signs for {', '.join(roles)}.")


async def _open(store: str, keys: str | None) -> Repository:
    from modelsync_server.store import open_store
    from modelsync_server.trust import Repository

    return await Repository.open(open_store(store), keys)


def _show(keyids: list[str], as_json: bool, sentence: str) -> None:
    if as_json:
        _print({"keys": keyids})
    else:
        typer.echo(f"{sentence}: {', '.join(keyid[:16] for keyid in keyids)}.")


def _print(document: object) -> None:
    typer.echo(json.dumps(document))
