"""The pages as data: what each shows, and its tables as CSV and JSON. Asks through Answers; knows no HTTP."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelsync_protocol.errors import ModelsyncError, UsageError
from modelsync_server.dashboard import charts, questions
from modelsync_server.dashboard.answers import Answer, Answers
from modelsync_server.dashboard.questions import Filter, Groups
from modelsync_server.library.async_store import AsyncStore
from modelsync_server.rollout import reading
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.reading import Overview, RolloutStatus
from modelsync_server.rollout.record import OVER

GIGABYTE = 1_000_000_000
MODELS = 12
"""So many on a page of the fleet: each costs the hub a query."""

T = TypeVar("T")
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a page, for people and programs."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def csv(self) -> str:
        """With a line of columns. A cell that a spreadsheet would take for a formula gets a quote before it."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(["'" + cell if isinstance(cell, str) and cell[:1] in "=+-@\t" else cell for cell in row])
        return out.getvalue()

    def document(self) -> list[dict[str, Cell]]:
        """As JSON."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class View:
    """A page: its template, its title, what the template is given, its tables. `age`: of its oldest answer, seconds."""

    template: str
    title: str
    data: dict[str, Any]
    tables: tuple[Table, ...] = ()
    age: float = 0.0
    troubles: tuple[str, ...] = field(default=())


class Views:
    """Makes the pages. `money`: price of a gigabyte and its currency; `image_bytes`: what an image pull would cost."""

    def __init__(
        self,
        hub: FleetHub,
        store: AsyncStore | None,
        answers: Answers,
        *,
        price_per_gb: float | None = None,
        currency: str = "EUR",
        image_bytes: int = 60_000_000,
    ) -> None:
        self._hub, self._store, self._answers = hub, store, answers
        self.price_per_gb, self.currency, self.image_bytes = price_per_gb, currency, image_bytes

    def money(self, size: int | None) -> float | None:
        """What so many bytes cost."""
        return None if size is None or self.price_per_gb is None else size / GIGABYTE * self.price_per_gb

    async def fleet(self, start: int = 0) -> View:
        """How many devices hold which version of which model, in which state, with which errors; MODELS a page."""
        asked = _Asked(self._answers)
        total = await asked.of(("total",), lambda: questions.total(self._hub))
        overview = await asked.of(("overview",), lambda: reading.overview(self._hub, spending=True))
        models = await self._models(asked, overview)
        shown: list[dict[str, Any]] = []
        rows: list[tuple[Cell, ...]] = []
        page = models[start : start + MODELS]
        for name, groups in zip(
            page, await asyncio.gather(*(self._grouped(asked, name) for name in page)), strict=True
        ):
            shown.append(
                {
                    "name": name,
                    "groups": groups,
                    "bar": charts.bar([(group.value, group.devices) for group in groups.versions]),
                    "rollout": next((each for each in overview.rollouts if each.record.model == name), None),
                }
            )
            for kind, found in (("version", groups.versions), ("state", groups.states), ("error", groups.errors)):
                rows += [(name, kind, group.value, group.devices) for group in found]
        spent = await asked.of(("spent",), lambda: questions.spent_bytes(self._hub))
        data = {"devices": total[0], "connected": total[1], "models": shown, "spent": spent, "overview": overview}
        data |= {"next": start + MODELS if start + MODELS < len(models) else None, "start": start}
        tables = (Table("fleet", ("model", "kind", "value", "devices"), rows),)
        return asked.view("fleet.html", "Fleet", data, tables)

    async def devices(self, wanted: Filter, token: str | None, sort: str) -> View:
        """One page of the devices that a filter finds; `sort` orders that page."""
        asked = _Asked(self._answers)
        overview = await asked.of(("overview",), lambda: reading.overview(self._hub, spending=True))
        models = await self._models(asked, overview)
        found, following = await asked.of(
            ("devices", wanted, token), lambda: questions.devices(self._hub, wanted, token)
        )
        columns = ("device", "connected", "contact", "version", "state", "since", "error", "text")
        if sort.removeprefix("-") not in columns:
            raise UsageError(f"{sort!r:.20} is no column: sort by {', '.join(columns)}.")
        found = sorted(found, key=lambda row: str(getattr(row, sort.removeprefix("-"))), reverse=sort.startswith("-"))
        rows = [tuple(getattr(row, column) for column in columns) for row in found]
        data = {
            "rows": found,
            "next": following,
            "filter": wanted,
            "models": models,
            "states": questions.STATES,
            "sort": sort,
        }
        return asked.view("devices.html", "Devices", data, (Table("devices", columns, rows),))

    async def device(self, identifier: str) -> View:
        """Desired against reported of one device."""
        asked = _Asked(self._answers)

        async def ask() -> questions.Device:
            where = f"deviceId = {questions.quoted(identifier)}"
            found, _ = await self._hub.query_page(f"SELECT * FROM devices WHERE {where}", page=1)
            if not found:
                raise UsageError(f"there is no device {identifier[:64]!r}: see the list of devices.")
            return questions.device(found[0])

        found = await asked.of(("device", identifier), ask)
        columns = ("model", "desired", "version", "state", "since", "previous", "hold", "bytes", "error", "text")
        rows = [
            (
                m.name,
                m.desired,
                m.version,
                m.state,
                m.since,
                m.previous,
                "yes" if m.hold else "",
                m.bytes,
                m.error,
                m.text,
            )
            for m in found.models
        ]
        return asked.view("device.html", found.device, {"device": found}, (Table("models", columns, rows),))

    async def model(self, name: str) -> View:
        """A model's versions in the store: sizes, updates, what would be cheaper; and who holds which."""
        store = self._store
        if store is None:
            raise UsageError("this page was started without --store, so it knows no versions.")
        asked = _Asked(self._answers)
        found = await asked.of(("models",), store.models)
        model = next((each for each in found if each.name == name), None)
        if model is None:
            raise UsageError(f"the store has no model {name[:64]!r}.")
        details = await asked.of(("show", name), lambda: store.show(name, digests=False))
        held = {group.value: group.devices for group in (await self._grouped(asked, name)).versions}
        versions = [(each, held.get(str(each.version), 0)) for each in sorted(model.versions, key=lambda v: -v.version)]
        columns = ("version", "published", "bytes", "install", "devices", "digest")
        rows = [
            (
                each.version,
                "" if each.published is None else each.published.isoformat(),
                each.size,
                each.install_bytes,
                on,
                each.digest,
            )
            for each, on in versions
        ]
        updates = [
            (each.version, update.base, update.bytes, update.older_bytes)
            for each, _ in versions
            for update in each.updates
        ]
        tables = (
            Table("versions", columns, rows),
            Table("updates", ("version", "from", "bytes", "format_1_bytes"), updates),
        )
        data = {"model": model, "versions": versions, "details": details}
        return asked.view("model.html", name, data, tables)

    async def rollouts(self) -> View:
        """All rollouts, and what the fleet wants."""
        asked = _Asked(self._answers)
        found = await asked.of(("overview",), lambda: reading.overview(self._hub, spending=True))
        rows = [
            (r.record.model, r.record.version, r.record.rollout, r.record.state.value, ring.name, ring.state,
             ring.record.reachable, ring.counts.active, ring.counts.failed, ring.predicted, ring.spent)
            for r in found.rollouts for ring in r.rings
        ]  # fmt: skip
        columns = (
            "model",
            "version",
            "rollout",
            "state",
            "ring",
            "ring_state",
            "devices",
            "active",
            "failed",
            "predicted_bytes",
            "spent_bytes",
        )
        data = {"overview": found, "lanes": [self._lanes(each) for each in found.rollouts], "over": OVER}
        return asked.view("rollouts.html", "Rollouts", data, (Table("rings", columns, rows),))

    async def rollout(self, name: str) -> View:
        """One rollout: rings as lanes, the gate with its numbers, predicted against spent."""
        asked = _Asked(self._answers)
        found = await asked.of(("rollout", name), lambda: reading.status(self._hub, name, spending=True))
        document = reading.document(found)
        columns = tuple(key for key in document["rings"][0] if key != "gate") if document["rings"] else ()
        rows = [tuple(ring[key] for key in columns) for ring in document["rings"]]
        data = {"rollout": found, "lanes": self._lanes(found), "over": found.record.state in OVER}
        return asked.view("rollout.html", f"Rollout of {name}", data, (Table("rings", columns, rows),))

    async def cost(self) -> View:
        """Bytes and money of this day and month, and by model and ring, against the image pulls that were avoided."""
        asked = _Asked(self._answers)
        spent = await asked.of(("spent",), lambda: questions.spent_bytes(self._hub))
        found = await asked.of(("overview",), lambda: reading.overview(self._hub, spending=True))
        lines: list[tuple[str, int, str, str, int, int | None, int]] = []
        for each in found.rollouts:
            for ring in each.rings:
                if ring.record.opened is not None:
                    made = (each.record.model, each.record.version, each.record.rollout)
                    lines.append((*made, ring.name, ring.counts.active, ring.spent, ring.predicted))
        for wish in found.wishes:
            for record in wish.rings:
                active = record.counts.active if record.counts else 0
                lines.append((wish.model, wish.version, wish.rollout, record.name, active, record.spent, record.bytes))
        shown = [
            {
                "model": model, "version": version, "rollout": rollout, "ring": ring, "devices": active, "spent": size,
                "predicted": predicted, "image": active * self.image_bytes, "money": self.money(size),
                "image_money": self.money(active * self.image_bytes),
            }
            for model, version, rollout, ring, active, size, predicted in lines
        ]  # fmt: skip
        columns = (
            "model",
            "version",
            "rollout",
            "ring",
            "devices",
            "spent",
            "predicted",
            "image",
            "money",
            "image_money",
        )
        rows = [tuple(line[column] for column in columns) for line in shown]
        data = {
            "spent": spent,
            "money_of": {period: self.money(size) for period, size in spent.items()},
            "lines": shown,
            "image_bytes": self.image_bytes,
            "month": time.strftime("%Y-%m", time.gmtime()),
        }
        return asked.view("cost.html", "Cost", data, (Table("cost", columns, rows),))

    def _lanes(self, found: RolloutStatus) -> list[dict[str, Any]]:
        lanes = []
        for ring in found.rings:
            counts, whole = ring.counts, max(ring.record.reachable, ring.counts.asked, 1)
            parts = [("active", counts.active), ("failed", counts.failed), ("waiting", counts.waiting)]
            lanes.append(
                {
                    "ring": ring,
                    "bar": charts.bar(parts, whole),
                    "needed": ring.record.gate.needed(ring.record.reachable),
                    "whole": whole,
                    "needed_x": min(1000, round(1000 * ring.record.gate.needed(ring.record.reachable) / whole)),
                    "money": self.money(ring.spent),
                    "predicted_money": self.money(ring.predicted),
                }
            )
        return lanes

    async def _models(self, asked: _Asked, overview: Overview) -> list[str]:
        """Models by name: the store's, and those that rollouts are about."""
        known = {each.record.model for each in overview.rollouts} | {wish.model for wish in overview.wishes}
        if self._store is not None:
            known |= set(await asked.of(("names",), self._store.names))
        return sorted(known)

    async def _grouped(self, asked: _Asked, model: str) -> Groups:
        return await asked.of(("grouped", model), lambda: questions.grouped(self._hub, model))


class _Asked:
    """Questions of one page: the age of the oldest answer, and what could not be asked again."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._age = 0.0
        self._troubles: dict[str, None] = {}

    async def of(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[T]]) -> T:
        answer: Answer[T] = await self._answers.get(key, ask)
        self._age = max(self._age, answer.age)
        if answer.trouble:
            self._troubles[answer.trouble] = None
        return answer.value

    def view(self, template: str, title: str, data: dict[str, Any], tables: tuple[Table, ...]) -> View:
        return View(template, title, data, tables, self._age, tuple(self._troubles))


def broken(error: ModelsyncError) -> View:
    """What is shown where nothing can be: the sentence."""
    return View("trouble.html", "Not now", {"text": str(error)})
