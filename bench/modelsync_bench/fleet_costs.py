"""From measured bytes to a month's money: each way's costs with where they come from, and the fleet's document.

The document is the result's `facts["fleet"]`: `{"schema": 1, "assumptions", "ways", "missing", "price_per_gb",
"fleet", "budget"}`. Every number of a way carries its basis: "measured" stands in the same result, "computed" follows
from measured numbers (how, `why` says), "assumed" is one of the assumptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isinf
from typing import Any, Literal

from modelsync_bench import fleet_engine
from modelsync_bench.fleet import HELD, Fleet, Outcome, Way, dollars, undisturbed
from modelsync_bench.fleet_models import FLEET, pair
from modelsync_bench.idle_line import DAY, IdleLine
from modelsync_bench.links import DIRECT
from modelsync_bench.result import Measurement, Result

SCHEMA = 1
PRICE_PER_GB = 25.0
"""US dollars; the story's own figure: 60 GB cost $1,500."""

JOURNAL_BYTES = 256 * 1024
STORY = "story"
STORY_PAIR = "anomaly-pickle"
NAIVE, TRICK, OURS, TOLD, PUSHED = "oci-gzip-naive", "oci-gzip-trick", "modelsync", "modelsync-twin", "modelsync-push"

Basis = Literal["measured", "computed", "assumed"]


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number that nobody measured, and why it was taken."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Costed:
    """A way with the basis of each of its `wire` figures; `peer` is the adapter it was measured with."""

    way: Way
    peer: str
    basis: tuple[Basis, Basis, Basis, Basis]
    why: str


def costed(
    result: Result, plan: tuple[float, float, float, float], idle: Mapping[str, IdleLine], fleet: Fleet
) -> tuple[list[Costed], list[str]]:
    """Naive image, trick, best peer, modelsync: those that the result has figures for; and what is missing, and why."""
    found: list[Costed | None] = []
    missing: list[str] = []
    naive, trick = (_of(result, STORY, STORY_PAIR, peer) for peer in (NAIVE, TRICK))
    found.append(_naive(naive))
    found.append(_trick(naive, trick))
    found.append(best_peer(result, fleet.mix))
    ours = _of(result, FLEET, pair(HELD[0]), OURS)
    told, pushed, pulled = (_of(result, STORY, STORY_PAIR, peer) for peer in (TOLD, PUSHED, OURS))
    extra = _extra(result)
    found.append(_ours("modelsync", plan, ours, told, pulled, extra))
    names = ("naive image", "trick", "best peer", "modelsync")
    needs = (f"{STORY} with {NAIVE}", f"{STORY} with {NAIVE} and {TRICK}", FLEET, FLEET)
    for name, need, one in zip(names, needs, found, strict=True):
        if one is None:
            missing.append(f"{name}: not measured; `modelsync-bench run` has it in scenario {need}")
    if pushed is not None and told is not None and pulled is not None:
        found.append(_pushed(found[-1], _ours("modelsync, pushed", plan, ours, pushed, pulled, extra)))
    if not idle:
        missing.append("the idle connection: not measured; `modelsync-bench idle` does it, and here it costs nothing")
    present = [one for one in found if one is not None]
    return [replace(one, way=replace(one.way, idle_day=_idle(one, idle))) for one in present], missing


def best_peer(result: Result, mix: tuple[float, float, float, float]) -> Costed | None:
    """Of the peers measured from every version that a device may hold, the one with the fewest bytes over the mix."""
    candidates = []
    for peer in result.peers:
        wire = [_of(result, FLEET, pair(held), peer.name) for held in HELD]
        if peer.name.startswith("modelsync") or not all(wire):
            continue
        one, two, three, none = [float(m.wire_bytes or 0) for m in wire if m]
        first = wire[0]
        again = float((first.wire_bytes or 0) - (first.payload_bytes or 0)) if first else 0.0
        way = Way("best peer", (one, two, three, none), lost=_lost_in_cut(result, peer.name), again=again)
        candidates.append(Costed(way, peer.name, ("measured",) * 4, "each on the line"))
    return min(candidates, key=lambda one: (undisturbed(one.way, mix), one.peer), default=None)


def document(
    result: Result,
    plan: tuple[float, float, float, float],
    idle: Mapping[str, IdleLine],
    fleet: Fleet,
    price: float,
    budget: tuple[float, float],
    simulated: Callable[[Sequence[tuple[Way, Fleet]]], Sequence[Outcome]] = fleet_engine.simulated,
) -> dict[str, Any]:
    """Simulate each way, without and with a `budget` of bytes a day and a month, and keep all that a report needs."""
    found, missing = costed(result, plan, idle, fleet)
    bounded = replace(fleet, bytes_per_day=budget[0], bytes_per_month=budget[1])
    budgeted = [one for one in found if one.way.predicted is not None]
    months = [*((one.way, fleet) for one in found), *((one.way, bounded) for one in budgeted)]
    outcomes = iter(simulated(months))
    return {
        "schema": SCHEMA,
        "price_per_gb": price,
        "fleet": dataclasses.asdict(fleet),
        "plan_bytes": dict(zip(HELD, plan, strict=True)),
        "idle_basis": "measured" if idle else "missing",
        "ways": [_entry(one, next(outcomes), fleet, price) for one in found],
        "budget": {
            "bytes_per_day": budget[0],
            "bytes_per_month": budget[1],
            "ways": [_entry(one, next(outcomes), fleet, price) for one in budgeted],
        },
        "missing": missing,
        "assumptions": [dataclasses.asdict(one) for one in assumptions(fleet, price, budget)],
    }


def assumptions(fleet: Fleet, price: float, budget: tuple[float, float]) -> tuple[Assumption, ...]:
    """All that went in unmeasured."""
    mix = ", ".join(f"{share:.0%} {held}" for share, held in zip(fleet.mix, HELD, strict=True))
    days = ", ".join(str(day + 1) for day in fleet.releases)
    return (
        Assumption("price", f"${price:g} a GB of 10^9 bytes", "the story's own figure is $1,500 for 60 GB: $25 a GB"),
        Assumption("devices", f"{fleet.devices:,}", "a fleet where money is felt; --devices"),
        Assumption("releases", f"{len(fleet.releases)} a month of {fleet.days} days, on days {days}", "weekly"),
        Assumption("versions held when a release comes", mix, "most follow; some were off for weeks, some are new"),
        Assumption("cuts", f"{fleet.cuts_per_mb:g} for each MB carried", "no public figure for radio lines is known"),
        Assumption("attempts", f"at most {fleet.attempts} a day", "all ways retry alike; the rest of them next day"),
        Assumption(
            "budget, in the table with one", f"{budget[0]:,.0f} bytes a day, {budget[1]:,.0f} a month", "--budget"
        ),
        Assumption(
            "what a cut destroys: modelsync",
            f"{JOURNAL_BYTES:,} bytes at most",
            "its journal advances that often; tests/daemon/test_prepare_faults.py holds the mean below 400 KiB",
        ),
        Assumption("what a cut destroys: images", "all that came of the update", "skopeo fetches a layer whole"),
        Assumption(
            "what a cut destroys: best peer",
            "nothing if its cut download (scenario cut-line) went on, else all",
            "the measured file is larger than the fleet's model",
        ),
        Assumption(
            "the images' bytes by version held",
            "naive: always the same; trick: one more small layer for each version missed; new: the naive image",
            "the dependencies' layer has a new digest in each build; the trick's image keeps its old layers",
        ),
        Assumption(
            "how other ways hear of a release",
            "for nothing",
            "in their favour: a deployment's twin traffic is not counted for them, and is for modelsync",
        ),
        Assumption(
            "idle connection of other ways",
            "the SDK's defaults",
            "IoT Edge and the SDK's users rarely change them; who does pays modelsyncd's figure instead",
        ),
    )


def _entry(one: Costed, outcome: Outcome, fleet: Fleet, price: float) -> dict[str, Any]:
    way = one.way
    return {
        "name": way.name,
        "peer": one.peer,
        "why": one.why,
        "wire": list(way.wire),
        "basis": list(one.basis),
        "predicted": list(way.predicted) if way.predicted else None,
        "lost": None if isinf(way.lost) else way.lost,
        "again": way.again,
        "idle_day": way.idle_day,
        "mean_update_bytes": undisturbed(way, fleet.mix),
        "release_dollars": dollars(outcome.update_bytes / max(1, len(fleet.releases)), price),
        "update_dollars": dollars(outcome.update_bytes, price),
        "idle_dollars": dollars(outcome.idle_bytes, price),
        "month_dollars": dollars(outcome.total_bytes, price),
        "outcome": dataclasses.asdict(outcome),
    }


def _of(result: Result, scenario: str, name: str, peer: str) -> Measurement | None:
    """A measurement on the direct line that has figures."""
    one = result.find((scenario, name, peer, DIRECT))
    return one if one is not None and one.exact and one.wire_bytes is not None else None


def _naive(story: Measurement | None) -> Costed | None:
    if story is None:
        return None
    each = float(story.wire_bytes or 0)
    basis: tuple[Basis, Basis, Basis, Basis] = ("measured", "assumed", "assumed", "assumed")
    return Costed(Way("naive image", (each,) * 4), NAIVE, basis, "the story's pair; the same for every version held")


def _trick(naive: Measurement | None, trick: Measurement | None) -> Costed | None:
    if naive is None or trick is None:
        return None
    one, whole = float(trick.wire_bytes or 0), float(naive.wire_bytes or 0)
    layer = float(max((r.answer_bytes for r in trick.breakdown if "/blobs/" in r.path), default=one))
    basis: tuple[Basis, Basis, Basis, Basis] = ("measured", "assumed", "assumed", "assumed")
    return Costed(
        Way("trick", (one, one + layer, one + 2 * layer, whole)), TRICK, basis, "the story's pair; a layer more each"
    )


def _ours(
    name: str,
    plan: tuple[float, float, float, float],
    ours: Measurement | None,
    told: Measurement | None,
    pulled: Measurement | None,
    extra: tuple[float, ...],
) -> Costed | None:
    """Plan bytes, and what was measured beside a plan's bytes: with the hub's traffic if the story has it."""
    if told is not None and pulled is not None and pulled.payload_bytes is not None:
        beside = float((told.wire_bytes or 0) - pulled.payload_bytes)
        why = f"plan, and {beside:,.0f} bytes beside it, measured in the story with {told.peer}: twin, trust, TLS"
        peer = told.peer
    elif ours is not None and ours.payload_bytes is not None:
        beside = float((ours.wire_bytes or 0) - ours.payload_bytes)
        why = f"plan, and {beside:,.0f} bytes beside it, measured with {ours.peer}: trust, TLS; without the twin's"
        peer = ours.peer
    else:
        return None
    # A first install asks for more objects than an update: what that adds was measured with the pull.
    one, two, three, none = (size + beside + more for size, more in zip(plan, extra, strict=True))
    way = Way(name, (one, two, three, none), plan, JOURNAL_BYTES, beside)
    return Costed(way, peer, ("computed",) * 4, why)


def _extra(result: Result) -> tuple[float, ...]:
    """By HELD, what a pull carries beside the plan's bytes more than an update from one version behind does."""
    pulls = [_of(result, FLEET, pair(held), OURS) for held in HELD]
    beside = [float(one.wire_bytes or 0) - one.payload_bytes if one and one.payload_bytes else None for one in pulls]
    first = beside[0]
    return tuple(0.0 if first is None or each is None else each - first for each in beside)


def _pushed(fetched: Costed | None, pushed: Costed | None) -> Costed | None:
    """Only updates are pushed: who has nothing installed fetches."""
    if fetched is None or pushed is None:
        return None
    one, two, three, _ = pushed.way.wire
    way = replace(pushed.way, wire=(one, two, three, fetched.way.wire[3]))
    return replace(pushed, way=way, why=f"{pushed.why}; a first install is fetched")


def _lost_in_cut(result: Result, peer: str) -> float:
    """0 if the peer's cut download fetched less than half of what was there again, inf if more, or if none is known."""
    for cut in result.measurements:
        if cut.scenario == "cut-line" and cut.peer == peer and cut.exact and cut.wire_bytes is not None:
            whole = _of(result, "pairs", cut.pair, peer)
            if whole is not None and whole.wire_bytes:
                return 0.0 if cut.wire_bytes < 1.45 * whole.wire_bytes else inf
    return inf


def _idle(one: Costed, idle: Mapping[str, IdleLine]) -> float:
    line = idle.get("modelsyncd" if one.way.predicted is not None else "sdk-defaults")
    return line.day_bytes if line else 0.0


def month_of_idle(line: IdleLine, price: float) -> tuple[float, float]:
    """Bytes and dollars of 30 days of one idle device."""
    count = 30 * line.day_bytes
    return count, dollars(count, price)


def exchanges_a_day(line: IdleLine) -> tuple[float, float]:
    """Keep-alives and renewals."""
    return DAY / line.keep_alive_seconds, DAY / line.renewal_seconds
