"""How a fleet divides, counted by the hub: a query a model whatever the fleet's size. Every value may be hostile.

Azure documents `GROUP BY` of one property of device twins. Ours groups by several, and modules too, which says more
for less; where that is refused, the same is asked a property at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from modelsync_protocol import names
from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard.text import count, shown, utc
from modelsync_server.rollout.port import PAGE, FleetHub, Json
from modelsync_server.rollout.target import Kind, Target, desired, quoted, reported

REPORTED = "properties.reported.modelsync"
STATES = (
    "idle", "resolving", "planning", "fetching", "assembling", "probing", "activating", "probation", "active",
    "waiting", "rolled back", "quarantined", "unsupported",
)  # fmt: skip
"""The daemon's (docs/states.md)."""
UNDER_WAY = ("resolving", "planning", "fetching", "assembling", "probing", "activating", "probation")
LABEL = 32
"""Characters of a group's name; what is longer is nonsense."""
UNHEARD = "nothing reported"
SLOW_SECONDS = 3600
"""Longer under way than this is worth a look."""
_MOST_PAGES = 5
"""Of groups, a thousand each: a fleet that reports nonsense must not be read whole."""


@dataclass(frozen=True, slots=True)
class Group:
    """So many devices report this; `value` is cut to a sane text."""

    value: str
    devices: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why so many devices are stuck. `kind` and `code` are what a list of devices is filtered by."""

    kind: str
    code: str
    devices: int

    @property
    def means(self) -> str:
        """A sentence for who has never seen it."""
        return _CODES.get(self.code, "an error that this page does not know: see the device's own words.") if (
            self.kind == "error"
        ) else _KINDS[self.kind]  # fmt: skip


_CODES: Mapping[str, str] = {
    "offline": "the origin or the network does not answer; it tries again by itself.",
    "budget": "the bytes of the day or month are spent; it goes on when the next period begins.",
    "window": "it fetches only in its time window.",
    "network": "the network that it is in is not for so large an update, or for none; it waits for another one.",
    "policy": "the policy in its twin is wrong, so nothing is fetched: mend it.",
    "disk": "the disk has no room for the version.",
    "held": "somebody holds it; release it to go on.",
    "origin": "its twin names no origin: set modelsync.origin.",
    "access": "the origin refuses its SAS; the method “secret” brings another.",
    "refused": "trust or damage on the way: it does not believe what it fetched.",
    "worker": "the process that prepares the version died.",
    "probe": "the version failed its probe; the one before goes on serving.",
    "serving": "the version failed in service; the one before serves again.",
    "unsupported": "this device can't run the version: its own words say what is missing. It fetched nothing.",
}
"""Codes of docs/states.md."""
_KINDS: Mapping[str, str] = {
    "slow": "under way for more than an hour.",
    "state": "it went back or refuses the version, and does not say why.",
    "nonsense": "what it reports is no state of ours.",
    "unheard": "a version is desired, and it has never reported anything of the model.",
    "held": "somebody holds it; release it to go on.",
}


@dataclass(frozen=True, slots=True)
class Groups:
    """How a model's devices divide, each way, most first. `without`: devices that have nothing to do with it.

    `behind`: for each desired version, how many serve another. `whole`: whether all groups were read.
    """

    versions: tuple[Group, ...] = ()
    states: tuple[Group, ...] = ()
    errors: tuple[Group, ...] = ()
    wanted: tuple[Group, ...] = ()
    behind: tuple[Group, ...] = ()
    reasons: tuple[Reason, ...] = ()
    without: int = 0
    whole: bool = True

    @property
    def devices(self) -> int:
        """All that report or desire it."""
        return sum(group.devices for group in self.states)


async def grouped(hub: FleetHub, model: str, target: Target, now: float) -> Groups:
    """One query a model, whatever the fleet's size, and one more if some are under way: the hub allows few a minute."""
    at, wish = reported(names.check_model_name(model)), desired(model)
    paths = {
        "wanted": f"{wish}.version",
        "version": f"{at}.version",
        "state": f"{at}.state",
        "error": f"{at}.error.code",
        "hold": f"{at}.hold",
    }
    try:
        found, complete = await _groups(hub, target, paths)
        groups = _crossed(found, complete)
    except UsageError:
        groups = await _marginal(hub, target, paths)
    if any(group.value in UNDER_WAY for group in groups.states):
        slow = await _count(hub, target, under_way_since(model, now))
        if slow:
            return _with(groups, Reason("slow", "", slow))
    return groups


def under_way_since(model: str, now: float) -> str:
    """The condition of devices that have been under way for too long, by their own clocks."""
    at = reported(model)
    states = ", ".join(quoted(state) for state in UNDER_WAY)
    return f"{at}.state IN [{states}] AND {at}.since < '{utc((now - SLOW_SECONDS) // 300 * 300)}'"


def _with(groups: Groups, reason: Reason) -> Groups:
    reasons = tuple(sorted((*groups.reasons, reason), key=lambda each: -each.devices))
    return Groups(groups.versions, groups.states, groups.errors, groups.wanted, groups.behind, reasons,
                  groups.without, groups.whole)  # fmt: skip


async def _groups(hub: FleetHub, target: Target, paths: Mapping[str, str]) -> tuple[list[Json], bool]:
    columns = ", ".join(f"{path} AS {name}" for name, path in paths.items())
    query = target.reporters(f"{columns}, COUNT() AS devices", "*") + f" GROUP BY {', '.join(paths.values())}"
    found, token = await hub.query_page(query, page=PAGE)
    for _ in range(_MOST_PAGES - 1):
        if token is None:
            break
        more, token = await hub.query_page(query, page=PAGE, token=token)
        found += more
    return found, token is None


def _crossed(found: list[Json], complete: bool) -> Groups:
    """Groups of all properties at once: who is behind, and for which reason, is in the rows."""
    kinds = ("wanted", "version", "state", "error")
    counted: dict[str, Counter[str]] = {name: Counter() for name in (*kinds, "behind")}
    reasons: Counter[tuple[str, str]] = Counter()
    without = 0
    for row in found:
        number = count(row.get("devices"))
        if all(row.get(name) is None for name in kinds):
            without += number
            continue
        for name in ("wanted", "version", "error"):
            if row.get(name) is not None:
                counted[name][shown(row[name], LABEL)] += number
        counted["state"][shown(row.get("state"), LABEL) or UNHEARD] += number
        wanted = row.get("wanted")
        if wanted is not None and row.get("version") != wanted:
            counted["behind"][shown(wanted, LABEL)] += number
        if reason := _reason(row):
            reasons[reason] += number
    groups = {name: _most_first(each) for name, each in counted.items()}
    stuck = sorted((Reason(*each, number) for each, number in reasons.items()), key=lambda r: (-r.devices, r.code))
    return Groups(groups["version"], groups["state"], groups["error"], groups["wanted"], groups["behind"],
                  tuple(stuck), without, complete)  # fmt: skip


def _reason(row: Json) -> tuple[str, str] | None:
    state, error, wanted, version = (row.get(name) for name in ("state", "error", "wanted", "version"))
    if error is not None:
        return "error", shown(error, LABEL)
    if state is None and version is None:
        return "unheard", ""
    if not isinstance(state, str) or state not in STATES or not isinstance(version, int | None):
        return "nonsense", ""
    if row.get("hold") is True and version != wanted:
        return "held", ""
    return ("state", "") if state in ("quarantined", "rolled back", "unsupported") else None


async def _marginal(hub: FleetHub, target: Target, paths: Mapping[str, str]) -> Groups:
    """The same from a hub that groups by one property only: a query each, and one for each of the wishes most held."""
    found: dict[str, tuple[Group, ...]] = {}
    whole = True
    total = 0
    for name in ("wanted", "version", "state", "error"):
        counted: Counter[str] = Counter()
        read, complete = await _groups(hub, target, {name: paths[name]})
        whole = whole and complete
        for row in read:
            if row.get(name) is not None:
                counted[shown(row[name], LABEL)] += count(row.get("devices"))
        total = max(total, sum(count(row.get("devices")) for row in read))
        found[name] = _most_first(counted)
    behind = []
    for group in found["wanted"][:3]:
        if group.value.isdecimal():
            there = f"{paths['wanted']} = {group.value} AND {paths['version']} = {group.value}"
            left = group.devices - await _count(hub, target, there)
            behind += [Group(group.value, left)] if left > 0 else []
    nonsense = sum(group.devices for group in found["state"] if group.value not in STATES)
    reasons = [Reason("error", group.value, group.devices) for group in found["error"]]
    reasons += [Reason("nonsense", "", nonsense)] if nonsense else []
    without = total - sum(group.devices for group in found["state"])
    stuck = tuple(sorted(reasons, key=lambda each: -each.devices))
    return Groups(found["version"], found["state"], found["error"], found["wanted"], tuple(behind), stuck,
                  without, whole)  # fmt: skip


def _most_first(counted: Counter[str]) -> tuple[Group, ...]:
    return tuple(Group(*each) for each in sorted(counted.items(), key=lambda each: (-each[1], each[0])))


async def silent_modules(hub: FleetHub, module: str, now: float, seconds: float) -> int:
    """Modules of a name that were not heard of for so long; 0 from a hub that counts no modules (Azure's)."""
    try:
        return await _count(hub, Target(Kind.MODULE, module), f"NOT {heard_since(now, seconds)}")
    except UsageError:
        return 0


async def _count(hub: FleetHub, target: Target, where: str) -> int:
    found, _ = await hub.query_page(target.reporters("COUNT() AS devices", where), page=1)
    return count(found[0].get("devices")) if found else 0


async def total(hub: FleetHub) -> tuple[int, int]:
    """All devices, and those that are connected."""
    query = "SELECT connectionState AS state, COUNT() AS devices FROM devices GROUP BY connectionState"
    found, _ = await hub.query_page(query, page=PAGE)
    by_state = {str(row.get("state")): count(row.get("devices")) for row in found}
    return sum(by_state.values()), by_state.get("Connected", 0)


AGES = ((86400, "the last day"), (7 * 86400, "the last week"), (30 * 86400, "the last month"))
"""How long ago a device was heard of last, seconds."""


async def contacts(hub: FleetHub, now: float, devices: int) -> tuple[Group, ...]:
    """When devices were heard of last, by AGES; then those that were not heard of for longer, or never."""
    groups, before = [], 0
    for seconds, label in AGES:
        heard = await _count(hub, Target(), heard_since(now, seconds))
        groups.append(Group(label, max(0, heard - before)))
        before = max(before, heard)
        if heard >= devices:
            break
    return (*groups, Group("longer ago, or never", max(0, devices - before)))


def heard_since(now: float, seconds: float) -> str:
    """The condition of devices that were heard of in that time; its text changes every five minutes only."""
    return f"lastActivityTime >= '{utc((now - seconds) // 300 * 300)}'"


async def confused(hub: FleetHub) -> int:
    """Devices that name something in their wishes that they do not understand."""
    return await _count(hub, Target(), f"is_defined({REPORTED}.problems)")


async def spent_bytes(hub: FleetHub, now: float) -> Mapping[str, int]:
    """Bytes that devices report for this day and month, both ways.

    A device that was not heard of today reports another day's bytes: they are no part of this day's, nor the month's.
    """
    spent = {}
    for period, begin in (("day", utc(now)[:10]), ("month", utc(now)[:7] + "-01")):
        ways = ", ".join(f"SUM({REPORTED}.ledger.{period}.{way}) AS {way}" for way in ("received", "sent"))
        query = Target().reporters(ways, f"lastActivityTime >= '{begin}T00:00:00Z'")
        found, _ = await hub.query_page(query, page=1)
        row = found[0] if found else {}
        spent[period] = sum(count(row.get(way)) for way in ("received", "sent"))
    return spent
