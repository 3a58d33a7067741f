"""`modelsync publish`: reads options, prints what was published. No logic beyond presentation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsync_server.cli import documents, tables, update_commands
from modelsync_server.cli.hub_access import ModuleOption, ServiceOption, StateOption, held_by_fleet
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
from modelsync_server.cli.update_commands import PictureOption
from modelsync_server.environment import command as environment

if TYPE_CHECKING:
    from modelsync_server import Release

_STDIN = "-"
_MOST_NOTES = 5


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command("publish")(publish)
    environment.register(app)


def publish(
    store: StoreArgument,
    name: NameArgument,
    path: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model file, a directory, - for standard input, or where it is kept: mlflow:models:/NAME@ALIAS, "
            "hf:ORG/REPO, azureml:NAME:VERSION, dvc:PATH, oci:REGISTRY/REPOSITORY:TAG, git+https://…, zip:FILE",
        ),
    ],
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
    file_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="With -: the file's name; its suffix tells the format.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON object to sign with the version; up to 64 KiB.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="One more key; metrics.auc=0.93 is a metric; repeatable."),
    ] = None,
    author: Annotated[str | None, typer.Option(help="Who made it.")] = None,
    commit: Annotated[str | None, typer.Option(help="The revision that it was made from.")] = None,
    git: Annotated[bool, typer.Option("--git", help="Take author and commit from PATH's git repository.")] = False,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Have a confined process read it first: nobody vouches for who made it.")
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The LoRA adapter (safetensors) that was merged to make this version."),
    ] = None,
    provenance: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Signature or attestation to verify; default: those beside PATH; repeatable."
        ),
    ] = None,
    require_provenance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IDENTITY",
            help="Refuse what none of these signed: key:FILE, cert:FILE, sigstore:IDENTITY,ISSUER; repeatable.",
        ),
    ] = None,
    requires: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="What it requires of a device, instead of what the model says: memory=512MiB, "
            "package:numpy>=1.26; repeatable.",
        ),
    ] = None,
    no_requires: Annotated[
        bool, typer.Option("--no-requires", help="Don't take requirements from the model; --requires alone counts.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="local|dask",
            help="Encode in worker processes of this machine, or on Dask's; the bytes are the same.",
        ),
    ] = None,
    engine_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask's scheduler, tcp://HOST:8786; default: one started here."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="How many workers are started here; default: one for each core.")
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="How hard to try for few bytes: fast, default or max; devices read the result of each.",
        ),
    ] = "default",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where the bytes of the update from the last version went.")
    ] = False,
    picture: PictureOption = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Sign a trace context with it, and send this span by OTLP (OTEL_*).")
    ] = False,
    progress: ProgressOption = ProgressForm.AUTO,
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a model file or directory, or what a registry keeps, as a new version."""
    from modelsync_protocol.errors import UsageError
    from modelsync_server.cli import progress as progress_of
    from modelsync_server.publish.publisher import DEFAULT_BASES
    from modelsync_server.tracing import traced as traced_work

    if path == _STDIN and file_name is None:
        raise UsageError("standard input has no name: say with --file-name model.onnx how the file is called.")
    kept = path != _STDIN and _kept_elsewhere(path)
    if kept and git:
        raise UsageError("--git is for a path in a repository: of a source its own revision is signed.")
    said = _metadata(path, metadata, meta or [], author, commit, git)
    traced = traced_work.begin(f"publish {name}") if trace else None
    if traced is not None:
        said = {**(said or {}), "traceparent": traced.parent}
    opened = open_store(store, keys)
    held = held_by_fleet(store, name, max_updates, module, service, state) if hub else None
    with progress_of.shown(progress, "publish", progress_of.AGAIN) as update:
        result = opened.publish(
            name,
            sys.stdin.buffer if path == _STDIN else path if kept else Path(path),
            version=version,
            probe=probe,
            bases=[*_versions(bases), *(held.versions if held else ())],
            last=DEFAULT_BASES if held is None else 0,
            metadata=said,
            file_name=file_name,
            untrusted=untrusted,
            adapter=adapter,
            provenance=provenance or (),
            require_provenance=require_provenance or (),
            requires=requires or (),
            derive_requires=not no_requires,
            engine=engine,
            engine_address=engine_address,
            workers=workers,
            effort=effort,
            progress=update,
        )
    if traced is not None:
        traced.end({"modelsync.model": name, "modelsync.version": result.version})
    for sentence in result.code[:_MOST_NOTES]:
        typer.echo(f"modelsync: note: it executes code where it is loaded: {sentence}", err=True)
    if len(result.code) > _MOST_NOTES:
        typer.echo(f"modelsync: note: and {len(result.code) - _MOST_NOTES} more; see `modelsync inspect`.", err=True)
    explained = None
    if (explain or picture is not None) and result.updates:
        with suppress(UsageError):  # published all the same, if what is there costs less than the update
            explained = opened.explain(name, result.updates[0].base, result.version)
        if explained is not None and picture is not None:
            update_commands.draw(explained, picture)
    if as_json:
        document = documents.release(result) | ({} if traced is None else {"traceparent": traced.parent})
        document |= {} if held is None else {"fleet": held.document()}
        print_json(document | ({} if explained is None else {"explain": documents.explanation(explained)}))
    else:
        _tell(result)
        for line in held.said(result.install_bytes) if held else ():
            typer.echo(f"  fleet: {line}")
        if explain and explained is None:
            typer.echo("  nothing to explain: no update object is what a device would fetch.")
        elif explain and explained is not None:
            update_commands.tell(explained, every=False)


def _kept_elsewhere(path: str) -> bool:
    """Whether PATH is a source's address; UsageError if it is neither that nor a path."""
    from modelsync_server.sources import fetching

    if not fetching.is_source(path):
        fetching.check_path(path)
        return False
    return True


def _tell(result: Release) -> None:
    if not result.fresh:
        typer.echo(f"{result.name} version {result.version} has these very bytes already; nothing to publish.")
    else:
        typer.echo(f"{result.name} version {result.version}: {result.size:,} bytes in {result.chunks} chunks.")
    typer.echo(f"  first install {result.install_bytes:>12,} bytes")
    if result.requires:
        typer.echo(f"  requires      {tables.needs(result.requires)}")
    for item in result.updates:
        older = "" if item.older_bytes is None else f" ({item.older_bytes:,} for daemons that read format 1 only)"
        typer.echo(f"  from version {item.base:<4} {item.bytes:>9,} bytes{older}")
    if result.work.resumed:
        typer.echo(f"  {result.work.resumed} of {result.work.tasks} tasks were done by an interrupted publication")
    if result.work.retried:
        typer.echo(f"  {result.work.retried} tasks were begun again: a worker had died")
    for note in result.advice:
        typer.echo(f"  hint: {note.text}")


def _metadata(
    path: str, file: Path | None, words: list[str], author: str | None, commit: str | None, git: bool
) -> Mapping[str, Any] | None:
    """All that was said about the version, the more particular option before the more general one; None: nothing."""
    from modelsync_server.library import metadata_sources as sources

    if file is None and not words and author is None and commit is None and not git:
        return None
    found: dict[str, Any] = sources.from_git(Path.cwd() if path == _STDIN else Path(path)) if git else {}
    for more in (sources.from_file(file) if file else {}, sources.from_words(words)):
        found = sources.joined(found, more)
    found |= {key: value for key, value in (("author", author), ("commit", commit)) if value is not None}
    for sentence in sources.unusual_keys(found):
        typer.echo(f"modelsync: note: {sentence}", err=True)
    return found


def _versions(text: str) -> list[int]:
    from modelsync_protocol.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--bases takes version numbers divided by commas, not {text!r}.") from None
