"""Rollouts: rings as lanes, gates with their numbers, predicted against spent; and what all of it costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.dashboard import counting
from modelsync_server.dashboard.asking import SLOWLY, Asked, Sources
from modelsync_server.dashboard.render import link, path
from modelsync_server.dashboard.tables import Column, Row, Table, View, bar
from modelsync_server.dashboard.text import moment, utc
from modelsync_server.rollout import documents, reading
from modelsync_server.rollout.gate import span
from modelsync_server.rollout.reading import RingStatus, RolloutStatus
from modelsync_server.rollout.record import State
from modelsync_server.rollout.target import Kind

_MONEY = ("predicted_money", "spent_money", "money", "image_money", "saved_money")


async def rollouts(views: Sources) -> View:
    """All rollouts, and what the fleet wants."""
    asked = Asked(views)
    found = await asked.overview()
    under_way = [(each, await _with_spent(asked, each, SLOWLY / 2)) for each in found.rollouts]
    rows: list[Row] = [
        (r.record.model, r.record.version, r.record.rollout, r.record.state.value, ring.name, ring.state,
         ring.record.reachable, ring.counts.active, ring.counts.failed, ring.predicted, spent)
        for r, spending in under_way for ring, spent in zip(r.rings, spending, strict=True)
    ]  # fmt: skip
    columns = (
        Column("model", href=lambda row: path("/rollout/", str(row[0]))),
        "version", "rollout", Column("state", kind="state"), "ring", Column("ring_state", "of the ring", "state"),
        Column("devices", kind="number"), Column("active", kind="number"), Column("failed", kind="number"),
        Column("predicted_bytes", "predicted", "size"), Column("spent_bytes", "spent", "size"),
    )  # fmt: skip
    wishes: list[Row] = [
        (wish.model, wish.version, str(wish.target), wish.rollout, wish.finished, wish.by) for wish in found.wishes
    ]
    data = {"overview": found, "lanes": [_lanes(views, each, spending) for each, spending in under_way]}
    tables = (
        Table("rings", columns, rows),
        Table("wishes", (Column("model", href=lambda row: path("/model/", str(row[0]))), "version",
                         Column("target", "whose"), Column("rollout", "by rollout"), Column("finished", kind="words"),
                         "by"), wishes, "No rollout has finished."),
    )  # fmt: skip
    return asked.view("rollouts.html", "Rollouts", data, tables)


async def rollout(views: Sources, name: str) -> View:
    """One rollout: rings as lanes, the gate with its numbers, predicted against spent."""
    asked, hub = Asked(views), views.hub
    found = await asked.of(("rollout", name), lambda: reading.status(hub, name, spending=False))
    spending = await _with_spent(asked, found)
    document = reading.document(found)
    columns = tuple(
        Column(key, kind="size" if key.endswith("bytes") else "state" if key == "state" else "text")
        for key in document["rings"][0] if key != "gate"
    ) if document["rings"] else ()  # fmt: skip
    rows: list[Row] = [
        tuple(spent if column.name == "spent_bytes" else moment(utc(ring["opened"])) if (
            column.name == "opened" and ring["opened"]) else ring[column.name] for column in columns)
        for ring, spent in zip(document["rings"], spending, strict=True)
    ]  # fmt: skip
    state = found.record.state
    gates = [_gate(ring, hub.now()) for ring in found.rings]
    spent = sum(each for each in spending if each is not None) if any(s is not None for s in spending) else None
    data = {
        "rollout": found, "lanes": _lanes(views, found, spending), "gates": gates, "spent": spent,
        "started": moment(utc(found.record.started)) if found.record.started else "",
        "money": _money(found, spent), "predicted_money": _money(found, found.predicted),
        "pauses": state in (State.RUNNING, State.PREPARING),
        "resumes": state in (State.PAUSED, State.STOPPED) and not any(ring.record.returned for ring in found.rings),
        "aborts": state in (State.PREPARING, State.RUNNING, State.PAUSED, State.STOPPED),
        "opened": sum(ring.counts.asked for ring in found.rings),
    }  # fmt: skip
    return asked.view("rollout.html", f"Rollout of {name}", data, (Table("rings", columns, rows),))


def _money(found: RolloutStatus, size: int | None) -> float | None:
    price = found.record.price_per_gb
    return None if size is None or price is None else size / 1_000_000_000 * price


async def _with_spent(asked: Asked, found: RolloutStatus, times: float = 1.0) -> list[int | None]:
    """Bytes that each ring's devices report. Azure sums no modules: theirs are read, so they are kept longer."""
    hub, record = asked.views.hub, found.record
    if record.target.kind is not Kind.DEVICE:
        times = max(times, 2 * SLOWLY)

    async def one(number: int, ring: RingStatus) -> int | None:
        if ring.spent is not None or ring.record.opened is None:
            return ring.spent
        key = ("spent", record.model, record.rollout, number)
        try:
            return await asked.of(key, lambda: reading.ring_spent(hub, record, number), times)
        except ModelsyncError:
            return None

    return list(await asyncio.gather(*(one(*each) for each in enumerate(found.rings))))


def _lanes(views: Sources, found: RolloutStatus, spending: list[int | None]) -> list[dict[str, Any]]:
    lanes = []
    for number, (ring, spent) in enumerate(zip(found.rings, spending, strict=True)):
        counts, reachable = ring.counts, ring.reachable
        whole = max(reachable, counts.asked, 1)
        parts = [("active", counts.active), ("failed", counts.failed), ("waiting", counts.waiting)]
        needed = ring.record.gate.needed(reachable)
        lanes.append(
            {
                "ring": ring,
                "bar": bar(parts, whole),
                "needed": needed,
                "whole": whole,
                "needed_x": min(1000, round(1000 * needed / whole)),
                "spent": spent,
                "money": _money(found, spent),
                "predicted_money": _money(found, ring.predicted),
                "spent_x": 0 if not ring.predicted or spent is None else min(1000, 1000 * spent // ring.predicted),
                "lists": _lists(found, number) if ring.record.opened is not None else {},
            }
        )
    return lanes


def _lists(found: RolloutStatus, number: int) -> dict[str, str]:
    """Addresses of the lists of a ring's devices."""
    record = found.record
    edge = record.target.kind is Kind.EDGE
    asked = {"stamp": record.stamp(number)} if edge else {"ring": documents.ring_id(record, number)}
    base = link("/devices", model=record.model, **asked)
    base = link(base, module=record.target.module) if record.target.module else base
    return {
        "asked": base,
        "active": link(base, version=record.version, state="active"),
        "failed": link(base, why="state"),
        "trouble": link(base, why="trouble"),
        "waiting": link(base, why="behind", wanted=record.version),
    }


def _gate(ring: RingStatus, now: float) -> list[tuple[str, str]]:
    """The gate's numbers: what it takes, what there is, what it waits for."""
    gate, counts = ring.record.gate, ring.counts
    allowed = gate.allowed(max(ring.reachable, counts.answered))
    lines = [
        ("active", f"{counts.active:,} of {gate.needed(ring.reachable):,} needed ({gate.document()['active']})"),
        ("failed", f"{counts.failed:,} of {allowed:,} allowed ({gate.document()['failures']})"),
    ]
    ripe = ring.judgement.ripe if ring.judgement else ring.record.ripe
    if ring.record.opened is None:
        lines += [("soak", span(gate.soak) if gate.soak else "none"), ("longest wait", span(gate.wait))]
        return lines
    if not gate.soak:
        lines.append(("soak", "none"))
    elif ripe is None:
        lines.append(("soak", f"{span(gate.soak)} once enough are active"))
    else:
        left = gate.soak - (now - ripe)
        lines.append(("soak", f"{span(left)} of {span(gate.soak)} left" if left > 0 else f"{span(gate.soak)}, over"))
    left = gate.wait - (now - ring.record.opened)
    lines.append(
        ("longest wait", f"{span(left)} of {span(gate.wait)} left" if left > 0 else f"{span(gate.wait)}, over")
    )
    return lines


async def cost(views: Sources) -> View:
    """Bytes and money of this day and month, and by model and ring, against the image pulls that were avoided."""
    asked, hub = Asked(views), views.hub
    spent = await asked.of(("spent",), lambda: counting.spent_bytes(hub, hub.now()), SLOWLY / 2)
    found = await asked.overview()
    rows: list[Row] = []
    for each in found.rollouts:
        for ring, size in zip(each.rings, await _with_spent(asked, each, SLOWLY / 2), strict=True):
            if ring.record.opened is not None:
                made = (each.record.model, each.record.version, each.record.rollout)
                rows.append(
                    _line(views, *made, ring.name, ring.record.opened, ring.counts.active, ring.predicted, size)
                )
    for wish in found.wishes:
        for record in wish.rings:
            active = record.counts.active if record.counts else 0
            made = (wish.model, wish.version, wish.rollout)
            rows.append(_line(views, *made, record.name, record.opened, active, record.bytes, record.spent))
    priced = views.price_per_gb is not None
    columns = (
        Column("model", href=lambda row: path("/model/", str(row[0]))), Column("version"),
        Column("rollout", kind="hidden"), Column("ring"), Column("opened", kind="time"),
        Column("devices", kind="number"), Column("predicted", kind="size"), Column("spent", kind="size"),
        Column("money", "which costs", "money" if priced else "hidden"),
        Column("image", "image pulls", "size"), Column("image_money", kind="hidden"),
        Column("saved_money", "avoided", "money" if priced else "hidden"),
    )  # fmt: skip
    kind = "money" if priced else "hidden"
    summed = (
        Column("devices", kind="number"), Column("spent", kind="size"), Column("money", "which costs", kind),
        Column("image", "image pulls", "size"), Column("image_money", "would cost", kind),
    )  # fmt: skip
    model_columns = (Column("model", href=lambda row: path("/model/", str(row[0]))), Column("version"), *summed)
    models = _sums(views, rows, lambda row: [(row[0], row[1])])
    opened = _sums(views, rows, lambda row: [(str(row[4])[:10],), (str(row[4])[:7],)] if row[4] else [])
    total_spent, total_image = sum(int(row[7] or 0) for row in rows), sum(int(row[9] or 0) for row in rows)
    periods: list[Row] = [
        ("today", time.strftime("%Y-%m-%d", time.gmtime(hub.now())), spent["day"], views.money(spent["day"])),
        ("this month", time.strftime("%Y-%m", time.gmtime(hub.now())), spent["month"], views.money(spent["month"])),
    ]
    data = {
        "spent": spent, "periods": periods, "image_bytes": views.image_bytes, "priced": priced,
        "price": views.price_per_gb, "total_spent": total_spent, "total_image": total_image,
        "saved": max(0, total_image - total_spent), "saved_money": views.money(max(0, total_image - total_spent)),
        "bar": bar([("spent", total_spent)], total_image) if total_image else [],
    }  # fmt: skip
    tables = (
        Table("cost", columns, rows, "No rollout has reached a device yet."),
        Table("models", model_columns, models, "No rollout has reached a device yet."),
        Table("opened", (Column("period", "day or month"), *summed), list(reversed(opened)), "No ring was opened."),
        Table("periods", ("period", "date", Column("bytes", kind="size"),
                          Column("money", "which costs", "money" if priced else "hidden")), periods),
    )  # fmt: skip
    return asked.view("cost.html", "Cost", data, tables)


def _sums(views: Sources, rows: Sequence[Row], keys: Callable[[Row], list[Row]]) -> list[Row]:
    """Devices, bytes and money of ring lines together, by each of a line's keys."""
    sums: dict[Row, list[int]] = {}
    for row in rows:
        for key in keys(row):
            sum_of = sums.setdefault(key, [0, 0, 0])
            for index, cell in enumerate((row[5], row[7], row[9])):
                sum_of[index] += int(cell or 0)
    return [
        (*key, devices, size, views.money(size), image, views.money(image))
        for key, (devices, size, image) in sorted(sums.items(), key=lambda each: str(each[0]))
    ]


def _line(views: Sources, model: str, version: int, rollout: str, ring: str, opened: float | None, active: int,
          predicted: int, size: int | None) -> Row:  # fmt: skip
    image = active * views.image_bytes
    saved = None if size is None else max(0, image - size)
    when = "" if opened is None else moment(utc(opened))
    return (model, version, rollout, ring, when, active, predicted, size, views.money(size), image, views.money(image),
            views.money(saved))  # fmt: skip
