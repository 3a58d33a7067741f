"""The fleet at a glance (who is stuck, and why, first), and lists of devices."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.dashboard import counting, listing
from modelsync_server.dashboard.asking import SLOWLY, Asked, Sources
from modelsync_server.dashboard.counting import Groups, Reason
from modelsync_server.dashboard.listing import WHYS, Filter
from modelsync_server.dashboard.render import link, path, whole
from modelsync_server.dashboard.tables import Column, Row, Table, View, bar

MODELS = 12
"""So many on a page of the fleet: each costs the hub a query or two."""
SILENT_DAYS = 30
_SILENT = f"not heard of for {SILENT_DAYS} days, or never: no power, no line, or never set up."
_MOST_ROWS = 1000
_STUCK = (
    Column("devices", "devices", "number", href=lambda row: str(row[5])),
    Column("why", "stuck because of", "error", href=lambda row: str(row[5])),
    Column("means", "which means", "words"),
    Column("model"),
    Column("module"),
    Column("list", "", "hidden"),
)


async def fleet(views: Sources, query: Mapping[str, str]) -> View:
    """How many devices hold which version of which model, in which state, with which errors; MODELS a page."""
    asked, hub, start = Asked(views), views.hub, whole(query.get("from", "0"))
    total, overview = await asyncio.gather(
        asked.of(("total",), lambda: counting.total(hub)), asked.overview()
    )  # fmt: skip
    models = await asked.names(overview)
    sources = ["", *asked.modules(overview)]
    page = models[start : start + MODELS]
    pairs = [(model, module) for model in page for module in sources]
    counted, contacts, spent, confused = await asyncio.gather(
        asyncio.gather(*(asked.grouped(*pair) for pair in pairs)),
        asked.of(("contacts",), lambda: counting.contacts(hub, hub.now(), total[0]), SLOWLY),
        asked.of(("spent",), lambda: counting.spent_bytes(hub, hub.now()), SLOWLY / 2),
        asked.of(("confused",), lambda: counting.confused(hub), SLOWLY),
    )
    found = dict(zip(pairs, counted, strict=True))
    unheard = await asyncio.gather(*(_silent(asked, module) for module in sources[1:]))
    stuck = [row for (model, module), groups in found.items() for row in _stuck(model, module, groups)]
    if contacts[-1].devices:
        address = link("/devices", silent=SILENT_DAYS)
        stuck.append((contacts[-1].devices, "silent", _SILENT, "", "", address))
    for module, number in zip(sources[1:], unheard, strict=True):
        if number:
            address = link("/devices", silent=SILENT_DAYS, module=module)
            stuck.append((number, "silent", _SILENT, "", module, address))
    if confused:
        address = link("/devices", why="confused")
        stuck.append((confused, "wishes not understood", "its twin asks for what it can't read.", "", "", address))
    stuck.sort(key=lambda row: -int(row[0] or 0))
    rows: list[Row] = []
    for (model, module), groups in found.items():
        for kind in ("versions", "states", "errors", "wanted"):
            rows += [(model, module, kind.removesuffix("s"), g.value, g.devices) for g in getattr(groups, kind)]
    contact_rows: list[Row] = [("now", total[1]), *((each.value, each.devices) for each in contacts)]
    data = {
        "devices": total[0], "connected": total[1], "spent": spent, "overview": overview, "start": start,
        "money_of": {period: views.money(size) for period, size in spent.items()},
        "models": [_shown(name, sources, found, overview) for name in page],
        "contact_bar": bar([(each.value, each.devices) for each in contacts]),
        "next": start + MODELS if start + MODELS < len(models) else None, "silent_days": SILENT_DAYS,
        "states": (*counting.STATES, counting.UNHEARD), "stuck_devices": sum(int(row[0] or 0) for row in stuck),
    }  # fmt: skip
    shown = [replace(each, kind="hidden") if each.name == "module" and len(sources) == 1 else each for each in _STUCK]
    tables = (
        Table("stuck", shown, stuck, "Nobody is stuck."),
        Table("fleet", ("model", "module", "kind", "value", "devices"), rows),
        Table("contact", (Column("heard", "last heard of"), Column("devices", kind="number")), contact_rows),
    )
    return asked.view("fleet.html", "Fleet", data, tables)


async def _silent(asked: Asked, module: str) -> int:
    hub, span = asked.views.hub, SILENT_DAYS * 86400
    key = ("silent", module)
    return await asked.of(key, lambda: counting.silent_modules(hub, module, hub.now(), span), SLOWLY)


def _stuck(model: str, module: str, groups: Groups) -> list[Row]:
    return [(r.devices, r.code or r.kind, r.means, model, module, _list(model, module, r)) for r in groups.reasons]


def _list(model: str, module: str, reason: Reason) -> str:
    chosen = {"error": reason.code} if reason.kind == "error" and _whole(reason.code) else {"why": "trouble"} if (
        reason.kind == "error") else {"why": reason.kind}  # fmt: skip
    return link("/devices", model=model, **chosen, **({"module": module} if module else {}))


def _whole(code: str) -> bool:
    """Whether a code is shown as it was reported: one that was cut or mended can't be asked for."""
    return "…" not in code and "\ufffd" not in code and len(code) <= 128


def _shown(name: str, sources: list[str], found: Mapping[tuple[str, str], Groups], overview: Any) -> dict[str, Any]:
    """A model on the page: a part for each kind of twin that knows it; devices' own, if none does."""
    known = [module for module in sources if found[name, module].devices] or [""]
    return {
        "name": name,
        "rollout": next((each for each in overview.rollouts if each.record.model == name), None),
        "parts": [
            {
                "module": module,
                "groups": found[name, module],
                "bar": bar([(group.value, group.devices) for group in found[name, module].versions]),
                "query": {"model": name} | ({"module": module} if module else {}),
            }
            for module in known
        ],
    }


def _columns() -> tuple[Column, ...]:
    return (
        Column("device", href=lambda row: path("/device/", str(row[0]))),
        Column("connected", kind="flag"),
        Column("contact", "last contact", "time"),
        Column("wanted", "desired"),
        Column("version", "serves"),
        Column("state", kind="state"),
        Column("since", kind="time"),
        Column("error", kind="error"),
        Column("text", "in its own words", "words"),
    )


async def devices(views: Sources, query: Mapping[str, str]) -> View:
    """One page of the devices that a filter finds; sorting orders that page."""
    asked, hub, wanted = Asked(views), views.hub, Filter.of(query)
    most = max(1, whole(query.get("page", str(listing.PAGE)), _MOST_ROWS))
    after = query.get("after") or None
    wanted.condition(hub.now())  # what is wrong with it is said before anything is asked
    overview = await asked.overview()
    models = await asked.names(overview)
    found, following = await asked.of(
        ("devices", wanted, after, most), lambda: listing.devices(hub, wanted, after, most, hub.now())
    )
    groups = None
    if wanted.model in models:
        try:
            groups = await asked.grouped(wanted.model, wanted.module)
        except ModelsyncError:
            groups = None  # the list is what was asked for; the choices are only a help
    columns = _columns()
    rows: list[Row] = [tuple(getattr(row, column.name) for column in columns) for row in found]
    data = {
        "next": following, "filter": asdict(wanted), "models": models, "modules": asked.modules(overview),
        "states": counting.STATES, "whys": WHYS, "groups": groups, "most": most, "after": after,
    }  # fmt: skip
    table = Table("devices", columns, rows, "No device matches.")
    return asked.view("devices.html", "Devices", data, (table,), following)
