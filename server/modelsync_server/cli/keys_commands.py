"""`modelsync init|refresh|withdraw|keys …`: the commands that sign. No logic beyond reading and printing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from modelsync_server.cli.options import (
    JsonOption,
    KeysOption,
    NameArgument,
    ProgressForm,
    ProgressOption,
    StoreArgument,
    open_store,
    print_json,
)

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
    from modelsync_server.library.store import create_store

    made = create_store(store, keys=keys, root_keys=root_keys, root_threshold=root_threshold)
    if as_json:
        print_json({"store": made.store.url, "trust": str(made.trust_file)})
        return
    typer.echo(f"{made.store.url} is a store now.")
    typer.echo(f"  for devices      {made.trust_file}")
    typer.echo(f"  private keys in  {made.keys_folder}")
    typer.echo("Move its folder offline/ to a safe place once every model has its first version.")


def refresh(
    store: StoreArgument,
    progress: ProgressOption = ProgressForm.AUTO,
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign what expires soonest again; let a timer run this daily."""
    from modelsync_protocol import trust
    from modelsync_server.cli.progress import shown

    with shown(progress, "refresh") as update:
        report = open_store(store, keys).refresh(progress=update)
    expires = trust.format_time(report.expires)
    for warning in report.warnings:
        typer.echo(f"modelsync: warning: {warning}", err=True)
    if as_json:
        print_json({"expires": expires, "warnings": list(report.warnings)})
    else:
        typer.echo(f"Refreshed; devices believe it until {expires}.")


def withdraw(
    store: StoreArgument,
    name: NameArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version to take back.")],
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a version back: no device fetches or activates it again."""
    withdrawn = open_store(store, keys).withdraw(name, version)
    if as_json:
        print_json({"name": name, "withdrawn": list(withdrawn)})
    else:
        typer.echo(f"{name} version {version} is withdrawn.")


def keys_list(store: StoreArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Show every key, what it signs, and whether it can sign here."""
    found = open_store(store, keys).keys()
    if as_json:
        print_json({"keys": [{"keyid": k.keyid, "roles": list(k.roles), "uri": k.uri, "here": k.here} for k in found]})
        return
    for key in found:
        typer.echo(f"{key.keyid[:16]}  {'here' if key.here else 'not here':<8}  {', '.join(key.roles)}")


def keys_add(
    store: StoreArgument,
    role: RoleArgument,
    keys: KeysOption = None,
    uri: Annotated[str | None, typer.Option(help="A signer's URI (azurekms:…); default: a new key file.")] = None,
    public: Annotated[Path | None, typer.Option(help="The signer's public key, PEM.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let one more key sign for a role."""
    _show(open_store(store, keys).add_key(role, uri=uri, public=public), as_json, f"{role} has one more key")


def keys_rotate(store: StoreArgument, role: RoleArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Replace a role's keys by new ones."""
    _show(open_store(store, keys).rotate_keys(role), as_json, f"{role} has new keys")


def keys_revoke(
    store: StoreArgument,
    keyid: Annotated[str, typer.Argument(metavar="KEYID", help="The key's id or its beginning.")],
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key sign for nothing any more."""
    roles = open_store(store, keys).revoke_key(keyid)
    if as_json:
        print_json({"revoked": keyid, "roles": list(roles)})
    else:
        typer.echo(f"{keyid} no longer signs for {', '.join(roles)}.")


def _show(keyids: Sequence[str], as_json: bool, sentence: str) -> None:
    if as_json:
        print_json({"keys": list(keyids)})
    else:
        typer.echo(f"{sentence}: {', '.join(keyid[:16] for keyid in keyids)}.")
