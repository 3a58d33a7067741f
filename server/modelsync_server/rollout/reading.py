"""How rollouts stand, read from the hub alone: rings, gates, predicted and spent bytes. What CLI and page show.

Nothing here changes anything. Counts are the hub's metrics, as old as the hub's last look (five minutes in Azure).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout import documents, record
from modelsync_server.rollout.documents import Found
from modelsync_server.rollout.fleet import spent
from modelsync_server.rollout.gate import Counts, Judgement, Verdict, judge
from modelsync_server.rollout.planning import GIGABYTE
from modelsync_server.rollout.port import FleetHub, Json
from modelsync_server.rollout.record import OVER, Record, RingRecord, State
from modelsync_server.rollout.recount import recount
from modelsync_server.rollout.target import Kind, Target


@dataclass(frozen=True, slots=True)
class RingStatus:
    """One ring. `state`: waiting, open, passed, failed, returned. `judgement` is the gate's, if the ring is open.

    `predicted` bytes are the plan's; `spent` what its devices report (None: not asked of the hub). `trouble` says what
    somebody did to its configuration by hand.
    """

    record: RingRecord
    state: str
    counts: Counts
    judgement: Judgement | None
    spent: int | None
    trouble: str

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def reachable(self) -> int:
        """Devices that its gate counts on: the plan's, less those that turned out not to be able to run the version."""
        return reachable(self.record, self.counts)

    @property
    def predicted(self) -> int:
        return self.record.bytes


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout, under way or over. `waits` says in a sentence what it waits for."""

    record: Record
    rings: tuple[RingStatus, ...]
    waits: str

    @property
    def predicted(self) -> int:
        return sum(ring.predicted for ring in self.rings)

    @property
    def spent(self) -> int | None:
        known = [ring.spent for ring in self.rings if ring.spent is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a finished rollout left: the version that is the fleet's (or a part's) wish, and its rings' last numbers."""

    model: str
    version: int
    rollout: str
    target: Target
    where: str
    finished: str
    by: str
    rings: tuple[RingRecord, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of a hub's rollouts and wishes.

    `damaged` are models whose record can't be read, `orphans` those whose rings still ask though there is no record,
    each with a sentence that says so and what to do.
    """

    rollouts: tuple[RolloutStatus, ...]
    wishes: tuple[Wish, ...]
    damaged: Mapping[str, str]
    configurations: int
    orphans: Mapping[str, str] = field(default_factory=dict)

    @property
    def troubles(self) -> dict[str, str]:
        """What an operator should look at, by model."""
        return {**self.orphans, **self.damaged}


def record_in(present: Sequence[Json], model: str) -> Record | None:
    """The record of a model's rollout; UsageError if it is there and can't be read."""
    for each in present:
        if each.get("id") == documents.record_id(model):
            return record.parse(each.get("labels"), str(each.get("etag", "")))
    return None


def reachable(ring: RingRecord, counts: Counts) -> int:
    """The plan's reachable devices, less those that can't run the version and that the plan did not know of."""
    return max(0, ring.reachable - max(0, counts.unsupported - ring.unsupported))


async def overview(hub: FleetHub, *, spending: bool = False) -> Overview:
    """Everything, in one call to the hub; with `spending` one query more for each ring that is open."""
    present = await hub.configurations()
    rollouts, damaged = [], {}
    for each in present:
        labels = each.get("labels")
        if not isinstance(labels, dict) or labels.get(record.MARK) != "record":
            continue
        try:
            found = record.parse(labels, str(each.get("etag", "")))
        except UsageError as error:
            damaged[str(labels.get("model", each.get("id")))[:63]] = str(error)
            continue
        rollouts.append(await status_in(hub, present, found, spending=spending))
    ours = documents.found(present)
    orphans = {}
    for model in sorted({each.model for each in ours if each.mark == "ring"}):
        if left := orphaned(present, model):
            orphans[model] = _orphaned_text(left)
    return Overview(tuple(rollouts), tuple(_wishes(ours)), damaged, len(present), orphans)


def orphaned(present: Sequence[Json], model: str) -> list[Found]:
    """Rings of a model that still ask though the model has no record: deleted, or another rollout's took its place."""
    if any(each.get("id") == documents.record_id(model) for each in present):
        return []
    return [each for each in documents.found(present, model) if each.mark == "ring"]


def _orphaned_text(left: Sequence[Found]) -> str:
    asks = "; ".join(f"{each.id} asks for version {each.version} ({each.where})" for each in left)
    return (
        f"there is no record of a rollout, and yet {asks}. `modelsync rollout abort {left[0].model} --return` takes "
        "that back; a later rollout to the same devices replaces it."
    )


async def status(hub: FleetHub, model: str, *, spending: bool = True) -> RolloutStatus:
    """The rollout of one model; UsageError if there is none."""
    present = await hub.configurations()
    found = record_in(present, model)
    if found is None:
        raise nothing(present, model)
    return await status_in(hub, present, found, spending=spending)


def nothing(present: Sequence[Json], model: str) -> UsageError:
    """Why there is no rollout to show or to act on."""
    if left := orphaned(present, model):
        return UsageError(_orphaned_text(left))
    return UsageError(f"no rollout of {model!r} is under way; `modelsync rollout list` shows what is.")


async def status_in(hub: FleetHub, present: Sequence[Json], found: Record, *, spending: bool) -> RolloutStatus:
    """The status of a record among the hub's configurations."""
    configurations = {each.id: each for each in documents.found(present, found.model)}
    rings = []
    for number in range(len(found.rings)):
        ring = await _ring(hub, found, number, configurations.get(documents.ring_id(found, number)))
        if spending and ring.spent is None and ring.record.opened is not None:
            ring = RingStatus(
                ring.record, ring.state, ring.counts, ring.judgement, await ring_spent(hub, found, number), ring.trouble
            )
        rings.append(ring)
    return RolloutStatus(found, tuple(rings), _waits(found, rings))


async def ring_spent(hub: FleetHub, found: Record, number: int) -> int:
    """Bytes that a ring's devices report since it was opened."""
    asked = found.target.asked(documents.ring_id(found, number), found.model, found.stamp(number))
    return max(0, await spent(hub, found.target, found.model, found.version, asked) - found.rings[number].held)


async def _ring(hub: FleetHub, found: Record, number: int, configuration: Found | None) -> RingStatus:
    ring = found.rings[number]
    if ring.returned:
        return RingStatus(ring, "returned", ring.counts or Counts(), None, ring.spent, "")
    if ring.opened is None:
        return RingStatus(ring, "waiting", Counts(), None, None, "")
    if configuration is None:
        counts = ring.counts or Counts()
        trouble = "" if found.state is State.FINISHING else f"{documents.ring_id(found, number)} was deleted by hand."
        return RingStatus(ring, "open" if number == found.ring else "passed", counts, None, ring.spent, trouble)
    asked = found.target.asked(documents.ring_id(found, number), found.model, found.stamp(number))
    counts = await recount(hub, found.target, found.model, found.version, asked, configuration.counts)
    what = configuration.differs(documents.ring_body(found, number))
    trouble = f"the {what} of {configuration.id} was changed by hand." if what else ""
    judgement = judge(ring.gate, counts, reachable(ring, counts), ring.opened, ring.ripe, hub.now())
    if number < found.ring:
        state = "failed" if judgement.verdict is Verdict.BREAK else "passed"
        return RingStatus(ring, state, counts, judgement, ring.spent, trouble)
    state = "failed" if judgement.verdict is Verdict.BREAK else "open"
    return RingStatus(ring, state, counts, judgement, ring.spent, trouble)


def _waits(found: Record, rings: Sequence[RingStatus]) -> str:
    if found.state in OVER or found.state is State.PAUSED:
        return found.why
    if found.state is State.PREPARING:
        return "its start was interrupted: give the same `modelsync rollout start` again."
    if found.state is State.RETURNING:
        return f"it goes back: {found.why}"
    if found.state is State.FINISHING or found.ring >= len(rings):
        return "it cleans up."
    ring = rings[found.ring]
    if ring.trouble:
        return ring.trouble
    return ring.judgement.why if ring.judgement else f"ring {ring.name} is opened next."


def _wishes(ours: Sequence[Found]) -> list[Wish]:
    wishes = []
    for each in ours:
        if each.mark != "fleet":
            continue
        labels = each.document.get("labels") or {}
        rings: list[RingRecord] = []
        while (text := labels.get(f"ring{len(rings)}")) is not None:
            try:
                rings.append(record.parse_ring(text))
            except UsageError:
                break
        wishes.append(
            Wish(
                each.model,
                each.version,
                each.rollout,
                each.target,
                each.where,
                str(labels.get("finished", "")),
                str(labels.get("by", "")),
                tuple(rings),
            )
        )
    return wishes


def document(found: RolloutStatus) -> dict[str, Any]:
    """A status as JSON."""
    made = found.record

    def money(size: int | None) -> float | None:
        return None if size is None or made.price_per_gb is None else size / GIGABYTE * made.price_per_gb

    return {
        "rollout": made.rollout,
        "model": made.model,
        "version": made.version,
        "target": str(made.target),
        "state": made.state.value,
        "ring": made.current.name,
        "by": made.by,
        "started": made.started,
        "why": made.why,
        "waits": found.waits,
        "predicted_bytes": found.predicted,
        "spent_bytes": found.spent,
        "predicted_money": money(found.predicted),
        "spent_money": money(found.spent),
        "currency": made.currency if made.price_per_gb is not None else None,
        "rings": [
            {
                "name": ring.name,
                "state": ring.state,
                "devices": ring.record.devices,
                "reachable": ring.record.reachable,
                "asked": ring.counts.asked,
                "active": ring.counts.active,
                "waiting": ring.counts.waiting,
                "failed": ring.counts.failed,
                "refused": ring.counts.refused,
                "rolled_back": ring.counts.rolled_back,
                "unsupported": ring.counts.unsupported,
                "opened": ring.record.opened,
                "gate": ring.record.gate.document(),
                "needed": ring.record.gate.needed(ring.reachable),
                "verdict": None if ring.judgement is None else ring.judgement.verdict.value,
                "why": None if ring.judgement is None else ring.judgement.why,
                "trouble": ring.trouble or None,
                "predicted_bytes": ring.predicted,
                "spent_bytes": ring.spent,
            }
            for ring in found.rings
        ],
    }


def is_edge(target: Target) -> bool:
    """Whether the rings' conditions are about other twins than those that report."""
    return target.kind is Kind.EDGE
