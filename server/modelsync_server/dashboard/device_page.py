"""One device: desired against reported, its history, its bytes; and the log of acts."""

from __future__ import annotations

from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard import history, twins
from modelsync_server.dashboard.asking import Asked, Sources
from modelsync_server.dashboard.tables import Column, Row, Table, View
from modelsync_server.dashboard.text import shown
from modelsync_server.rollout.port import Json
from modelsync_server.rollout.target import quoted

_MOST_MODULES = 50
_MODELS = (
    Column("module"), Column("model"), Column("desired"), Column("version", "serves"), Column("state", kind="state"),
    Column("since", kind="time"), Column("generation"), Column("hold", kind="flag"), Column("bytes", kind="size"),
    Column("digest"), Column("error", kind="error"), Column("text", kind="words"),
)  # fmt: skip
_HISTORY = (
    Column("when", kind="time"), Column("source", "says"), Column("model"), Column("what", kind="words"),
)  # fmt: skip
_ACTS = (
    Column("when", kind="time"), Column("who"), Column("what"), Column("on"), Column("answer", kind="words"),
)  # fmt: skip


async def device(views: Sources, identifier: str) -> View:
    """A device's twin and its modules'. Its history is what the hub, the audit log and this process know."""
    asked, hub = Asked(views), views.hub
    where = f"deviceId = {quoted(identifier[:256])}"

    async def ask() -> tuple[Json, list[Json], tuple[history.Event, ...]]:
        try:
            found = await hub.twin(identifier)
        except UsageError as error:
            raise UsageError(f"there is no device {shown(identifier, 64)!r}: see the list of devices.") from error
        modules, _ = await hub.query_page(f"SELECT * FROM devices.modules WHERE {where}", page=_MOST_MODULES)
        return found, modules, views.seen.look(identifier, [found, *modules], hub.now())

    document, modules, seen = await asked.of(("device", identifier), ask)
    found = twins.device(document, modules, hub.now())
    rows: list[Row] = [
        (r.module, m.name, m.desired, m.version, m.state, m.since, m.generation, m.hold, m.bytes, m.digest, m.error,
         m.text)
        for r in found.reporters for m in r.models
    ]  # fmt: skip
    acts = [] if views.audit is None else [
        each for each in views.audit.recent() if each.get("on", "").split(" ")[0].split("/")[0] == identifier
    ]  # fmt: skip
    events: list[Row] = [
        (event.when, event.source, event.model, event.what)
        for event in history.events([document, *modules], seen, acts)
    ]
    told = views.answers.told(("said", identifier))
    data = {"device": found, "told": told}
    tables = (Table("models", _MODELS, rows), Table("history", _HISTORY, events, "Nothing is known yet."))
    return asked.view("device.html", found.device, data, tables)


async def acts(views: Sources) -> View:
    """What was done from this page, by whom, and what came of it."""
    found = [] if views.audit is None else views.audit.recent()
    rows: list[Row] = [tuple(each.get(name, "") for name in ("when", "who", "what", "on", "answer")) for each in found]
    return Asked(views).view("acts.html", "Acts", {}, (Table("acts", _ACTS, rows, "Nothing was done yet."),))
