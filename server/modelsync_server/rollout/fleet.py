"""Questions to the hub about a fleet: who holds which version, who can't be reached, what was spent. Reads only.

Devices are counted by grouped queries, so that a fleet of any size costs a few calls. Azure groups device twins only:
modules are read in pages of a thousand and counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from modelsync_protocol import names
from modelsync_protocol.requirements.capabilities import of_line
from modelsync_protocol.requirements.judging import judge
from modelsync_server.push import newest_format
from modelsync_server.query import Condition, parse_condition
from modelsync_server.rollout.port import FleetHub, Json, count, rows
from modelsync_server.rollout.rings import BUCKET, Ring, bucket
from modelsync_server.rollout.target import EVERYONE, Kind, Target, both, desired, either, quoted, reported

OUTCOMES = "['active', 'probing', 'activating', 'probation', 'quarantined', 'rolled back']"
"""States in which the bytes of an update are known."""

FORMATS = "properties.reported.modelsync.daemon.formats"
"""Where a daemon reports which versions of the update's format it reads."""


@dataclass(frozen=True, slots=True)
class Held:
    """A version as devices report it: its manifest's digest and its number; None for none, or nonsense."""

    digest: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Census:
    """A ring's devices. `held` counts those that can take an update, by what they hold; the others are told apart."""

    held: Mapping[Held, int] = field(default_factory=dict)
    silent: int = 0
    on_hold: int = 0
    quarantined: int = 0
    lacks: Mapping[str, int] = field(default_factory=dict)
    """What those lack that can't run the version → how many; a device counts once."""

    @property
    def reachable(self) -> int:
        """How many can take an update now."""
        return sum(self.held.values())

    @property
    def devices(self) -> int:
        return self.reachable + self.silent + self.on_hold + self.quarantined + sum(self.lacks.values())


def minus(whole: Census, part: Census) -> Census:
    """What is left of a ring when those who belong to an earlier one are taken out."""
    held = Counter(dict(whole.held))
    held.subtract(dict(part.held))
    left = {each: number for each, number in held.items() if number > 0}
    return Census(
        left,
        max(0, whole.silent - part.silent),
        max(0, whole.on_hold - part.on_hold),
        max(0, whole.quarantined - part.quarantined),
        _without(whole.lacks, part.lacks),
    )


def _without(whole: Mapping[str, int], part: Mapping[str, int]) -> dict[str, int]:
    return {why: number - part.get(why, 0) for why, number in whole.items() if number > part.get(why, 0)}


async def censuses(
    hub: FleetHub,
    target: Target,
    model: str,
    version: int,
    rings: Sequence[Ring],
    silent_days: float,
    requires: Mapping[str, str] | None = None,
) -> list[tuple[Census, int]]:
    """For each ring the twins that no earlier ring has, and how many it shares with earlier ones.

    `requires` is what the version requires: those that report to lack something of it are told apart.
    Those that were not heard of for `silent_days` count as silent. Twins without a bucket are sorted in by the one
    that they will get, so that a plan is right before anything is written. Long lists are looked up in all twins.
    """
    since = datetime.fromtimestamp(hub.now() - silent_days * 86400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    wheres, needs = [ring.where for ring in rings], requires or {}
    if target.kind is not Kind.DEVICE or any(ring.devices for ring in rings):
        return _sorted_in(await twins(hub, target, model, EVERYONE), version, rings, since, needs)
    scope, unwritten = EVERYONE, list[Member]()
    if any(BUCKET in where for where in wheres):
        unwritten = await twins(hub, target, model, f"NOT is_defined({BUCKET})")
        scope = f"is_defined({BUCKET})" if unwritten else EVERYONE
    result: list[tuple[Census, int]] = []
    for number, where in enumerate(wheres):
        found = await _grouped(hub, target, model, version, both(where, scope), since, needs)
        shared = Census()
        if number and where == EVERYONE:
            shared = reduce(plus, (earlier for earlier, _ in result))
        elif number:
            earlier = both(where, scope, either(list(wheres[:number])))
            if await count(hub, target.members("COUNT() AS devices", earlier)):
                shared = await _grouped(hub, target, model, version, earlier, since, needs)
        result.append((minus(found, shared), shared.devices))
    added = _sorted_in(unwritten, version, rings, since, needs)
    return [(plus(one, two), shared + more) for (one, shared), (two, more) in zip(result, added, strict=True)]


def _sorted_in(
    members: Sequence[Member], version: int, rings: Sequence[Ring], since: str, requires: Mapping[str, str]
) -> list[tuple[Census, int]]:
    """What `censuses` gives, of twins that are at hand."""
    documents = [member.document() for member in members]
    taken: set[int] = set()
    result = []
    for ring in rings:
        holds = _chooser(ring)
        chosen = {number for number, document in enumerate(documents) if holds(document) is True}
        new = sorted(chosen - taken)
        result.append((_counted([members[number] for number in new], version, since, requires), len(chosen) - len(new)))
        taken |= chosen
    return result


def _chooser(ring: Ring) -> Condition:
    if ring.devices:
        listed = frozenset(ring.devices)
        return lambda document: document["deviceId"] in listed
    return (lambda document: True) if ring.where == EVERYONE else parse_condition(ring.where)


def plus(one: Census, other: Census) -> Census:
    """Two rings together."""
    return Census(
        Counter(dict(one.held)) + Counter(dict(other.held)),
        one.silent + other.silent,
        one.on_hold + other.on_hold,
        one.quarantined + other.quarantined,
        Counter(dict(one.lacks)) + Counter(dict(other.lacks)),
    )


async def _grouped(
    hub: FleetHub, target: Target, model: str, version: int, where: str, since: str, requires: Mapping[str, str]
) -> Census:
    at = reported(model)
    heard = f"lastActivityTime >= '{since}'"
    loose = f"(NOT is_defined({at}.hold) OR {at}.hold != true)"
    stuck = f"{at}.state = 'quarantined' AND {at}.desired = {version}"
    free = (
        f"(NOT is_defined({at}.desired) OR NOT is_defined({at}.state) OR {at}.state != 'quarantined'"
        f" OR {at}.desired != {version})"
    )
    numbers = "COUNT() AS devices"
    silent = await count(hub, target.members(numbers, both(where, f"lastActivityTime < '{since}'")))
    on_hold = await count(hub, target.members(numbers, both(where, heard, f"{at}.hold = true")))
    refused = await count(hub, target.members(numbers, both(where, heard, loose, stuck)))
    able, lacks = await _lacking(hub, target, model, version, both(where, heard, loose, free), requires)
    query = target.members(f"{at}.digest AS digest, {numbers}", both(where, heard, loose, free, able))
    held: Counter[Held] = Counter()
    for row in await rows(hub, f"{query} GROUP BY {at}.digest"):
        held[_held(row)] += _whole(row.get("devices"))
    return Census(held, silent, on_hold, refused, lacks)


UNABLE = "they report that they can't run it"
_MOST_CHARACTERS = 8_000
"""Of lines of what devices run models on, in one query; rarer ones count as able."""


async def _lacking(
    hub: FleetHub, target: Target, model: str, version: int, where: str, requires: Mapping[str, str]
) -> tuple[str, Counter[str]]:
    """(the condition of those who may be able to run the version, what the others lack → how many)."""
    at, numbers = reported(model), "COUNT() AS devices"
    unable = f"{at}.state = 'unsupported' AND {at}.desired = {version}"
    able = f"(NOT is_defined({at}.state) OR {at}.state != 'unsupported' OR {at}.desired != {version})"
    lacks: Counter[str] = Counter()
    if number := await count(hub, target.members(numbers, both(where, unable))):
        lacks[UNABLE] = number
    if not requires:
        return able, lacks
    query = target.members(f"{at}.runs_on AS line, {numbers}", both(where, able, f"is_defined({at}.runs_on)"))
    found = sorted(await rows(hub, f"{query} GROUP BY {at}.runs_on"), key=lambda row: -_whole(row.get("devices")))
    lines: list[str] = []
    for row in found:
        why = lacking(requires, row.get("line"))
        line = quoted(str(row.get("line")))
        if why and sum(map(len, lines)) + len(line) < _MOST_CHARACTERS:
            lines.append(line)
            lacks[why] += _whole(row.get("devices"))
    if lines:
        able = both(able, f"(NOT is_defined({at}.runs_on) OR NOT {at}.runs_on IN [{', '.join(lines)}])")
    return able, lacks


def lacking(requires: Mapping[str, str], line: object) -> str:
    """What a device lacks by its own short report of what it runs models on; empty if nothing, or not known."""
    return "; ".join(judge(requires, of_line(line)).missing)


@dataclass(frozen=True, slots=True)
class Member:
    """One twin: its id, what it holds and desires, and whether it is on hold, quarantined, connected."""

    device: str
    module: str | None
    held: Held
    desired: int | None
    absent: bool
    hold: bool
    quarantined: int | None
    heard: str
    connected: bool
    tags: Mapping[str, Any]
    runs_on: str = ""
    """What it says that it runs the model on (requirements.capabilities.line)."""
    unsupported: int | None = None
    """The version that it says it can't run."""
    formats: int = 1
    """The newest version of the update's format that its daemon reads."""

    def document(self) -> Json:
        """What rings choose by: the ids and the tags, with the bucket that it has or will get."""
        ours = self.tags.get("modelsync")
        kept = dict(ours) if isinstance(ours, dict) else {}
        tags = {**self.tags, "modelsync": {"bucket": bucket(self.device), **kept}}
        return {"deviceId": self.device, "moduleId": self.module, "tags": tags}


async def twins(hub: FleetHub, target: Target, model: str, where: str) -> list[Member]:
    """Every twin that `where` chooses, in pages. For Edge modules the devices' tags choose, and the modules report."""
    at, wish = reported(model), desired(model)
    state = (
        f"{at}.digest AS digest, {at}.version AS held, {at}.state AS state, {at}.desired AS about, {at}.hold AS hold,"
        f" {at}.runs_on AS runs, {FORMATS} AS formats, {wish}.version AS wished, {wish}.state AS wishedState,"
        " lastActivityTime AS heard, connectionState AS line"
    )
    if target.kind is not Kind.EDGE:
        found = await rows(hub, target.members(f"{target.ids}, tags AS tags, {state}", where))
        return [_member(row, row) for row in found]
    chosen = await rows(hub, target.members("deviceId, tags AS tags", where))
    modules = {
        row.get("deviceId"): row for row in await rows(hub, target.reporters(f"deviceId, moduleId, {state}", EVERYONE))
    }
    return [_member(row, modules[row["deviceId"]]) for row in chosen if row.get("deviceId") in modules]


def _member(chosen: Json, reporting: Json) -> Member:
    state, about = reporting.get("state"), reporting.get("about")
    tags = chosen.get("tags")
    return Member(
        str(reporting.get("deviceId")),
        reporting.get("moduleId"),
        _held(reporting, reporting.get("held")),
        _version(reporting.get("wished")),
        reporting.get("wishedState") == "absent",
        reporting.get("hold") is True,
        _version(about) if state == "quarantined" else None,
        str(reporting.get("heard", "")),
        reporting.get("line") == "Connected",
        tags if isinstance(tags, dict) else {},
        runs if isinstance(runs := reporting.get("runs"), str) else "",
        _version(about) if state == "unsupported" else None,
        newest_format(reporting.get("formats")),
    )


def _counted(members: list[Member], version: int, since: str, requires: Mapping[str, str]) -> Census:
    held: Counter[Held] = Counter()
    lacks: Counter[str] = Counter()
    silent = on_hold = quarantined = 0
    for member in members:
        if member.heard < since:
            silent += 1
        elif member.hold:
            on_hold += 1
        elif member.quarantined == version:
            quarantined += 1
        elif member.unsupported == version:
            lacks[UNABLE] += 1
        elif why := lacking(requires, member.runs_on):
            lacks[why] += 1
        else:
            held[Held(member.held.digest)] += 1
    return Census(held, silent, on_hold, quarantined, lacks)


async def holders(hub: FleetHub, target: Target, model: str) -> Counter[str]:
    """How many twins report which manifest digest of a model."""
    at = reported(model)
    if target.kind is Kind.DEVICE:
        query = target.reporters(f"{at}.digest AS digest, COUNT() AS devices", f"is_defined({at}.digest)")
        found = await rows(hub, f"{query} GROUP BY {at}.digest")
    else:
        found = [{**row, "devices": 1} for row in await rows(hub, target.reporters(f"{at}.digest AS digest", EVERYONE))]
    counted: Counter[str] = Counter()
    for row in found:
        digest = _held(row).digest
        if digest is not None:
            counted[digest] += _whole(row.get("devices"))
    return counted


async def spent(hub: FleetHub, target: Target, model: str, version: int, asked: str) -> int:
    """Bytes that the twins for which `asked` holds report of their update to `version`, failed ones included."""
    at = reported(model)
    where = both(asked, f"({at}.version = {version} OR {at}.desired = {version} AND {at}.state IN {OUTCOMES})")
    if target.kind is Kind.DEVICE:
        found = await rows(hub, target.reporters(f"SUM({at}.bytes) AS bytes", where))
    else:
        found = await rows(hub, target.reporters(f"{at}.bytes AS bytes", where))
    return sum(_whole(row.get("bytes")) for row in found)


def _held(row: Json, version: object = None) -> Held:
    digest = row.get("digest")
    known = isinstance(digest, str) and names.is_digest(digest)
    return Held(str(digest) if known else None, _version(version))


def _version(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else 0
