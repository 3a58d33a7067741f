"""A model: its versions, who signed them, what each update costs from which base, and what would be cheaper."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError
from modelsync_server.dashboard.asking import SLOWLY, Asked, Sources
from modelsync_server.dashboard.render import link, path
from modelsync_server.dashboard.tables import Column, Row, Table, View, bar
from modelsync_server.dashboard.text import shown
from modelsync_server.library.async_store import AsyncStore, Price

_MOST_HELD = 12
"""Held versions that are priced: each reads the store."""
_MOST_VERSIONS = 50
_MOST_PARTS = 200


async def model(views: Sources, name: str) -> View:
    """A model's versions in the store, what updates cost, and what the fleet would pay to get to the newest."""
    store = _store(views)
    asked = Asked(views)
    found = next((each for each in await asked.of(("models",), store.models, SLOWLY / 2) if each.name == name), None)
    if found is None:
        raise UsageError(f"the store has no model {shown(name, 64)!r}.")
    overview = await asked.overview()
    sources = ["", *asked.modules(overview)]
    held: dict[str, int] = {}
    for groups in await asyncio.gather(*(asked.grouped(name, module) for module in sources)):
        for group in groups.versions:
            held[group.value] = held.get(group.value, 0) + group.devices
    live = sorted(found.versions, key=lambda each: -each.version)
    signed = {
        each.version: await _signed(asked, store, name, each.version, each.digest) for each in live[:_MOST_VERSIONS]
    }
    newest = live[0].version if live else None
    to_newest = [] if newest is None else await _to_newest(
        asked, store, name, newest, {str(each.version): each.digest for each in live}, held,
        [update.bytes for update in live[0].updates],
    )  # fmt: skip
    columns = _columns(name)
    rows: list[Row] = [
        (each.version, "" if each.published is None else each.published.strftime("%Y-%m-%d %H:%M:%S"), each.size,
         each.install_bytes, held.get(str(each.version), 0), *signed.get(each.version, ("", "", "")),
         _said(each.metadata), each.digest)
        for each in live
    ]  # fmt: skip
    rows += [
        (number, "", None, None, held.get(str(number), 0), "withdrawn", "", "", "", "") for number in found.withdrawn
    ]
    updates: list[Row] = [
        (each.version, update.base, update.bytes, _share(update.bytes, each.install_bytes), views.money(update.bytes),
         held.get(str(update.base), 0), update.older_bytes)
        for each in live for update in each.updates
    ]  # fmt: skip
    missing = [row for row in to_newest if row[6]]
    data = {
        "name": name, "found": found, "newest": newest, "live": len(live),
        "strangers": sum(n for version, n in held.items() if version not in {str(each.version) for each in live}),
        "bar_segments": bar([(version, n) for version, n in sorted(held.items(), key=lambda each: -each[1])]),
        "missing": sum(int(row[1] or 0) for row in missing), "command": _command(store, name, newest, missing),
        "rollout": next((each for each in overview.rollouts if each.record.model == name), None),
    }  # fmt: skip
    tables = (
        Table("versions", columns, rows, "All versions were withdrawn."),
        Table("updates", _update_columns(name, views), updates, "No update object was published."),
        Table("to_newest", _newest_columns(views), [_priced(views, row) for row in to_newest],
              "No device holds an older version."),
    )  # fmt: skip
    return asked.view("model.html", name, data, tables)


def _store(views: Sources) -> AsyncStore:
    if views.store is None:
        raise UsageError("this page was started without --store, so it knows no versions.")
    return views.store


def _columns(name: str) -> tuple[Column, ...]:
    return (
        Column("version", href=lambda row: link("/devices", model=name, version=row[0])),
        Column("published", kind="time"),
        Column("bytes", "size", "size"),
        Column("install", "first install", "size"),
        Column("devices", kind="number", href=lambda row: link("/devices", model=name, version=row[0])),
        Column("signed", "signed by"),
        Column("until", "signed until", "time"),
        Column("origin", "vouched for by"),
        Column("said", "said of it", "words"),
        Column("digest", kind="hidden"),
    )


def _update_columns(name: str, views: Sources) -> tuple[Column, ...]:
    shown_money = "money" if views.price_per_gb is not None else "hidden"
    return (
        Column("version", href=lambda row: path("/model/", name) + f"/update/{row[1]}-{row[0]}", kind="text"),
        Column("from"),
        Column("bytes", kind="size"),
        Column("share", "of a first install", "percent"),
        Column("money", "a device", shown_money),
        Column("devices", "devices on that base", "number"),
        Column("format_1_bytes", "for old daemons (format 1)", "size"),
    )


def _newest_columns(views: Sources) -> tuple[Column, ...]:
    shown_money = "money" if views.price_per_gb is not None else "hidden"
    return (
        Column("base", "devices on version"),
        Column("devices", kind="number"),
        Column("way", "get there by"),
        Column("bytes", "each fetches", "size"),
        Column("total", "together", "size"),
        Column("money", "together", shown_money),
        Column("cheaper", "what would be cheaper", "words"),
    )


def _priced(views: Sources, row: Row) -> Row:
    base, devices, way, size, total, _, cheaper = row
    return base, devices, way, size, total, views.money(int(total or 0)), cheaper


async def _signed(asked: Asked, store: AsyncStore, name: str, version: int, digest: str) -> tuple[str, str, str]:
    """Who signed a version (role and the keys' first letters), until when, and whose provenance was verified."""
    try:
        details = await asked.of(
            ("show", name, version, digest), lambda: store.show(name, version, digests=False), 20.0
        )
    except UnreachableError:
        raise
    except ModelsyncError as error:
        return shown(str(error)), "", ""
    if not details.signatures:
        return "", "", ""
    first = details.signatures[0]
    until = min(each.expires for each in details.signatures)
    keys = ", ".join(key[:8] for key in first.keyids)
    return (
        f"{first.role} ({keys})",
        until.strftime("%Y-%m-%d %H:%M:%S"),
        _origin(details.metadata),
    )


def _origin(metadata: Mapping[str, Any]) -> str:
    found = metadata.get("provenance")
    listed = found if isinstance(found, list) else []
    return ", ".join(shown(each.get("identity"), 80) for each in listed[:4] if isinstance(each, dict))


def _said(metadata: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {shown(value, 120)}" for key, value in list(metadata.items())[:8] if key != "provenance")


async def _to_newest(
    asked: Asked, store: AsyncStore, name: str, newest: int, digests: Mapping[str, str], held: Mapping[str, int],
    updates: Sequence[int],
) -> list[Row]:  # fmt: skip
    """What the devices on each older version fetch to get to the newest, by the plan that they carry out."""
    older = [(n, version) for version, n in held.items() if version in digests and version != str(newest)]
    others = f"; others cost {min(updates):,} to {max(updates):,} bytes" if updates else ""

    async def one(devices: int, version: str) -> Row:
        key = ("price", name, digests[version], digests[str(newest)])
        cost: Price = await asked.of(key, lambda: store.price(name, newest, base=int(version)), SLOWLY)
        cheaper = "" if cost.kind in ("update", "held") else f"an update from it{others}"
        way = _WAYS.get(cost.kind, cost.kind)
        return int(version), devices, way, cost.bytes, devices * cost.bytes, None, cheaper

    return [await one(*each) for each in sorted(older, reverse=True)[:_MOST_HELD]]


_WAYS = {"update": "its update", "chunks": "what is missing, chunk by chunk", "held": "what it has"}


def _command(store: AsyncStore, name: str, newest: int | None, missing: Sequence[Row]) -> str:
    if not missing:
        return ""
    bases = ",".join(str(row[0]) for row in missing)
    return (
        f"modelsync publish {shlex.quote(store.url)} {name} PATH-OF-VERSION-{newest} --version {newest} --bases {bases}"
    )


def _share(part: int, whole: int | None) -> float | None:
    return None if not whole else round(100 * part / whole, 1)


async def update(views: Sources, name: str, pair: str) -> View:
    """Where an update's bytes went: what a publisher looks at who wants the next one smaller."""
    store, asked = _store(views), Asked(views)
    old, _, new = pair.partition("-")
    if not (old.isdecimal() and new.isdecimal() and len(pair) < 24):
        raise UsageError("an update is named by two versions, such as 2-3.")
    found = await asked.of(("explain", name, old, new), lambda: store.explain(name, int(old), int(new)), SLOWLY * 10)
    rows: list[Row] = [
        (shown(part.path), shown(part.tensor), part.size, part.bytes, _share(part.bytes, found.bytes),
         ", ".join(f"{key} {value:,}" for key, value in part.encodings.items()))
        for part in found.parts[:_MOST_PARTS]
    ]  # fmt: skip
    columns = (
        Column("file"), Column("tensor"), Column("size", "holds", "size"), Column("bytes", "costs", "size"),
        Column("share", "of the update", "percent"), Column("encodings", kind="words"),
    )  # fmt: skip
    data = {
        "name": name, "found": found, "cut": len(found.parts) > _MOST_PARTS,
        "bar_segments": bar(list(found.encodings.items())),
    }  # fmt: skip
    return asked.view("update.html", f"{name}: {old} to {new}", data, (Table("parts", columns, rows),))
