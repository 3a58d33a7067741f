"""`modelsync inspect|list|show|diff|price|verify|sbom|doctor`: the commands that read. No logic beyond presentation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelsync_protocol import release_record
from modelsync_server.cli import documents, tables
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

if TYPE_CHECKING:
    from modelsync_server import Difference, TensorChange, Version, VersionDetails

REFUSED = 3
_MOST_TENSORS = 40
"""Tensors that `diff` shows to a person without --all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (inspect, list_, show, diff, price, verify, sbom, doctor):
        app.command(command.__name__.rstrip("_"))(command)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file or a directory.")],
    forbid_code: Annotated[bool, typer.Option("--forbid-code", help="Exit 3 for what executes code, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a model is, requires, refers to and would execute; exit 3 if it leads out of itself."""
    from modelsync_server.publish.closed import inspect as run

    found, requires = run(path)
    if as_json:
        parts = {name: getattr(found, name) for name in ("refers", "outside", "code", "unreadable")}
        document = {name: [item.document() for item in items] for name, items in parts.items()}
        typer.echo(
            json.dumps({"closed": not found.outside, "formats": found.formats, **document, "requires": requires})
        )
    else:
        for name, kind in sorted(found.formats.items()):
            typer.echo(f"{name}: {kind}")
        for title, items in (
            ("refers to", found.refers),
            ("would execute", found.code),
            ("can't be read", found.unreadable),
            ("LEADS OUT", found.outside),
        ):
            for item in items:
                typer.echo(f"  {title}: {item}")
        if requires:
            typer.echo(f"  requires: {tables.needs(requires)}")
        typer.echo("Closed." if not found.outside else "Not closed: publishing it will be refused.")
    if found.outside or (forbid_code and found.code):
        sys.exit(REFUSED)


def list_(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show the models and versions of a store: dates, sizes, and what updates to them cost."""
    models = open_store(store).models()
    if as_json:
        print_json(documents.models(models))
        return
    rows: list[tuple[str, ...]] = []
    for model in models:
        lines = [_row(model.name, version) for version in model.versions]
        lines += [(model.name, str(version), "withdrawn", "", "", "", "", "") for version in model.withdrawn]
        rows += sorted(lines, key=lambda row: int(row[1]))
    if not rows:
        typer.echo("the store has no models yet: `modelsync publish` adds one.")
        return
    columns: tuple[str, ...] = ("model", "version", "published", "bytes", "install", "update", "digest", "metadata")
    if any(version.requires for model in models for version in model.versions):
        columns = (*columns, "requires")
        needs = {(m.name, str(v.version)): v.requires for m in models for v in m.versions}
        rows = [(*row, _clipped([tables.needs(needs.get((row[0], row[1]), {}))])) for row in rows]
    tables.show(columns, rows, right=("version", "bytes", "install", "update"))


def _row(name: str, version: Version) -> tuple[str, ...]:
    """`update` is the cost from the version before it, the one that most devices have."""
    update = next((each for each in version.updates if each.base < version.version), None)
    return (
        name,
        str(version.version),
        tables.day(version.published),
        tables.size(version.size),
        tables.size(version.install_bytes),
        f"{update.bytes:,}" if update else "-",
        version.digest[:12],
        _short(version.metadata),
    )


def sbom(
    store: StoreArgument,
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Default: the newest.")] = None,
) -> None:
    """Print a version's bill of materials (CycloneDX 1.6, JSON): files, digests, licence, metrics, provenance."""
    print_json(open_store(store).sbom(name, version))


def show(
    store: StoreArgument,
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Default: the newest.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Don't decode the files for their digests.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one version: files and digests, who signed it and until when, metadata, what each update costs."""
    found = open_store(store).show(name, version, digests=not quick)
    if as_json:
        print_json(documents.details(found))
    else:
        _tell_version(found)


def _tell_version(found: VersionDetails) -> None:
    version = found.version
    signed = "" if version.published_signed else " (the store's own time)"
    typer.echo(f"{found.name} version {version.version}{', the newest' if found.newest else ''}")
    typer.echo(f"  digest     {version.digest}")
    typer.echo(f"  published  {tables.day(version.published)} UTC{signed}")
    typer.echo(f"  size       {tables.size(version.size)} bytes in {version.files} file(s), {found.chunks} chunks")
    if found.problem:
        typer.echo(f"  problem    {found.problem}")
    if found.requires:
        typer.echo(f"  requires   {tables.needs(found.requires)}")
    said = dict(version.metadata)
    if isinstance(source := said.get(release_record.SOURCE), Mapping):
        del said[release_record.SOURCE]
        typer.echo("\nfetched from")
        for key, value in source.items():
            typer.echo(f"  {tables.printable(key):<10} {_text(value)}")
    if said:
        typer.echo("\nmetadata")
        for key, value in said.items():
            typer.echo(f"  {tables.printable(key)}: {_text(value)}")
    typer.echo("")
    tables.show(
        ("file", "bytes", "sha256"),
        [(e.path, f"-> {e.link}" if e.link else tables.size(e.size), e.sha256 or "") for e in found.entries],
        right=("bytes",),
    )
    typer.echo("")
    costs = [("nothing", tables.size(version.install_bytes), "")]
    costs += [(f"version {u.base}", tables.size(u.bytes), str(u.requests)) for u in version.updates]
    tables.show(("a device that has", "fetches bytes", "requests"), costs, right=("fetches bytes", "requests"))
    typer.echo("")
    tables.show(
        ("role", "believed until", "signed by"),
        [(s.role, tables.day(s.expires), ", ".join(keyid[:16] for keyid in s.keyids)) for s in found.signatures],
    )


def diff(
    store: StoreArgument,
    name: NameArgument,
    old: Annotated[int, typer.Argument(metavar="A", help="The older version.")],
    new: Annotated[int, typer.Argument(metavar="B", help="The newer version.")],
    every: Annotated[bool, typer.Option("--all", help=f"All tensors, not the {_MOST_TENSORS} dearest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two versions, tensor by tensor, how it is encoded and what it costs."""
    found = open_store(store).diff(name, old, new)
    if as_json:
        print_json(documents.difference(found))
    else:
        _tell_difference(found, every)


def _tell_difference(found: Difference, every: bool) -> None:
    typer.echo(
        f"{found.name} {found.old} -> {found.new}: {found.kind}, {found.bytes:,} bytes in {found.requests} request(s)"
    )
    if found.kind == "chunks" or found.kind == "pack":
        typer.echo(f"  no update object is made from version {found.old}: publish with --bases {found.old} for one.")
    if found.header_bytes is not None:
        typer.echo(f"  of these the header has {found.header_bytes:,} bytes")
    for need in found.requires:
        typer.echo(f"  requires {need.key}: {need.old or 'nothing'} -> {need.new or 'nothing'}")
    typer.echo("")
    if found.files:
        tables.show(
            ("file", "change", "old bytes", "new bytes", "update", "encodings"),
            [
                (
                    f.path,
                    f.change.value,
                    _or_dash(f.old_size),
                    _or_dash(f.new_size),
                    _or_dash(f.update_bytes),
                    ", ".join(f.encodings),
                )
                for f in found.files
            ],
            right=("old bytes", "new bytes", "update"),
        )
    typer.echo(f"{found.same_files} file(s) and {found.same_tensors} tensor(s) are the same.")
    if not found.tensors:
        return
    dearest = sorted(found.tensors, key=lambda tensor: tensor.update_bytes or 0, reverse=True)
    shown = dearest if every else dearest[:_MOST_TENSORS]
    typer.echo("")
    tables.show(
        ("tensor", "change", "type", "shape", "changed", "rel. RMS", "max", "update", "encodings"),
        [_tensor_row(tensor) for tensor in shown],
        right=("changed", "rel. RMS", "max", "update"),
    )
    if len(shown) < len(found.tensors):
        typer.echo(f"{len(found.tensors) - len(shown)} more tensor(s) changed; --all shows them.")


def _tensor_row(tensor: TensorChange) -> tuple[str, ...]:
    shape = "x".join(map(str, tensor.new_shape or tensor.old_shape or ())) or "scalar"
    if tensor.old_shape is not None and tensor.new_shape is not None and tensor.old_shape != tensor.new_shape:
        shape = f"{'x'.join(map(str, tensor.old_shape))} -> {shape}"
    share = "-"
    if tensor.changed_elements is not None:
        share = f"{100 * tensor.changed_elements / tensor.elements:.3g} %"
    return (
        tensor.name or "(unnamed)",
        tensor.change.value,
        tensor.dtype,
        shape,
        share,
        "-" if tensor.relative_rms is None else f"{tensor.relative_rms:.3g}",
        "-" if tensor.max_abs is None else f"{tensor.max_abs:.3g}",
        _or_dash(tensor.update_bytes),
        ", ".join(tensor.encodings),
    )


def price(
    store: StoreArgument,
    name: NameArgument,
    to: Annotated[int, typer.Option("--to", help="The version to reach.")],
    base: Annotated[int | None, typer.Option("--from", help="The version held; without it, a first install.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an update (or a first install) will cost a device, without doing it."""
    found = open_store(store).price(name, to, base=base)
    if as_json:
        print_json({"kind": found.kind, "bytes": found.bytes, "requests": found.requests})
    else:
        typer.echo(f"{found.kind}: {found.bytes:,} bytes in {found.requests} requests")


def verify(
    store: StoreArgument,
    sample: Annotated[
        str | None, typer.Option(metavar="N|PERCENT", help="Only so many versions, or such a share (5%), by chance.")
    ] = None,
    progress: ProgressOption = ProgressForm.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Check every signed version and every update of a store, byte for byte."""
    from modelsync_server.cli.progress import shown

    with shown(progress, "verify") as update:
        report = open_store(store).verify(sample, progress=update)
    if as_json:
        print_json(
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


def doctor(store: StoreArgument, keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """Look for what fails or soon will: keys, signatures, clock, disk; and say which command mends it.

    Ends with 0 if nothing fails now (warnings may stand there), else with the code that a command would end with
    because of the first problem: 2, 3, 4 or 5.
    """
    from modelsync_protocol import findings
    from modelsync_server.library.async_store import AsyncStore
    from modelsync_server.library.store import Store

    # Not opened as the other commands do: that there is no store is a finding too.
    found = Store(AsyncStore(store, keys)).doctor()
    if as_json:
        print_json(findings.document(found.findings))
    else:
        for line in findings.lines(found.findings):
            typer.echo(tables.printable(line))
    sys.exit(found.exit_code)


def _or_dash(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _text(value: Any) -> str:
    return tables.printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _short(metadata: Mapping[str, Any]) -> str:
    """The metrics, else the commit, else which keys there are: what tells versions apart in a line."""
    metrics = metadata.get("metrics")
    if isinstance(metrics, Mapping) and metrics:
        return _clipped([f"{key}={value}" for key, value in metrics.items()])
    if isinstance(commit := metadata.get("commit"), str):
        return commit[:12]
    return _clipped([f"{k}={v}" for k, v in metadata.items() if isinstance(v, str | int | float)])


def _clipped(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= 48 else text[:47] + "…"
