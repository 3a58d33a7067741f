"""A rollout to 100,000 simulated devices with the real planning, gate and step code: calls, time, bytes, money.

    python -m bench.fleet_rollout [--devices N] [--tier S1|S2|S3] [--failing SHARE] [--price-per-gb P] [--json]

Devices, hub and clock are simulated here; what is asked of the hub, when, and what follows from the answers is the code
that `modelsync rollout` runs. Assumptions: docs/fleet.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelsync_server.hub.configurations import model as hub_model
from modelsync_server.hub.traffic import TIERS
from modelsync_server.iothub.service_client import ConflictError, MethodResult, NotFoundError
from modelsync_server.publish import price
from modelsync_server.publish.publisher import publish
from modelsync_server.query import Query, parse
from modelsync_server.query.conditions import MISSING, lookup
from modelsync_server.rollout import planning, reading, running, starting
from modelsync_server.rollout.gate import Gate, span
from modelsync_server.rollout.pacing import PacedHub
from modelsync_server.rollout.rings import bucket, parse_options
from modelsync_server.store import Store, create_store
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import read_catalogue
from modelsync_server.trust.initialise import initialise

MODEL = "anomaly"
BEGIN = 1_800_000_000.0
BAND = 100
"""Buckets that are simulated as one: rings are cut at whole per cents."""
SHARE_OF_RATES = 0.8
RINGS = ["canary:tags.ring = 'canary'", "rest:1%,10%,50%,100%"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices that are alike in all that a query can see; `line` is how they are connected."""

    ring: str | None
    line: str
    serving: int
    band: int
    enrolled: bool = False
    before: tuple[str, int] | None = None
    wanted: int | None = None
    applied: str | None = None
    state: str = "active"
    told: int | None = None
    bytes: int = 0


PERIODS = {"steady": 120.0, "daily": 86_400.0, "gone": float("inf")}
"""Mean seconds until a device hears of a wish and has acted, by its line."""


class SimulatedHub:
    """A FleetHub over kinds of devices, with a clock that only sleeping moves. Deterministic by its seed."""

    def __init__(self, devices: int, digests: dict[int, str], prices: dict[tuple[int, int], int], failing: float,
                 twins_per_second: float) -> None:  # fmt: skip
        self._random = random.Random(16)
        self._digests, self._prices, self._failing, self._rate = digests, prices, failing, twins_per_second
        self.time = 0.0
        self.calls: Counter[str] = Counter()
        self.spent = self.failed = 0
        self._configurations: dict[str, hub_model.Configuration] = {}
        self._members: dict[Kind, list[str]] = defaultdict(list)
        self._kinds: dict[str, Kind] = {}
        for number in range(devices):
            device = f"car-{number:06}"
            ring = "canary" if number % 200 == 0 else None
            line = self._random.choices(list(PERIODS), [0.75, 0.20, 0.05])[0]
            serving = self._random.choices([3, 2, 1], [0.8, 0.15, 0.05])[0]
            self._place(device, Kind(ring, line, serving, bucket(device) // BAND, told=serving, wanted=serving))

    def _place(self, device: str, kind: Kind) -> None:
        self._kinds[device] = kind
        self._members[kind].append(device)

    # The clock and what devices do meanwhile

    def clock(self) -> float:
        return self.time

    def now(self) -> float:
        return BEGIN + self.time

    async def sleep(self, seconds: float) -> None:
        """Time goes by in steps of a minute at most."""
        end = self.time + seconds
        while self.time < end:
            passed = min(60.0, end - self.time)
            self.time += passed
            self._apply(int(self._rate * passed))
            self._act(passed)

    def _apply(self, most: int) -> None:
        """The hub writes what configurations want into twins, as fast as it may."""
        parsed = [(each, each.condition) for each in self._configurations.values()]
        for kind in list(self._members):
            document = self._document(kind)
            held = [each for each, condition in parsed if condition and condition(document) is True]
            if not held:
                wanted, applied = (None, None) if kind.applied else (kind.wanted, None)
            else:
                best = max(held, key=lambda each: (each.priority, each.id))
                (wish,) = best.own_parts().values()
                wanted, applied = wish.get("version"), best.id
            if (wanted, applied) != (kind.wanted, kind.applied):
                moved = self._members[kind][:most]
                most -= len(moved)
                self._move(kind, moved, replace(kind, wanted=wanted, applied=applied))

    def _act(self, passed: float) -> None:
        for kind in list(self._members):
            if kind.wanted is None or kind.wanted == kind.told or kind.line == "gone":
                continue
            ready = [d for d in self._members[kind] if self._random.random() < passed / PERIODS[kind.line]]
            # A device keeps the version before, so it goes back for nothing.
            size = 0 if kind.wanted < kind.serving else self._prices[kind.serving, kind.wanted]
            bad = [d for d in ready if kind.wanted == 4 and self._random.random() < self._failing]
            good = [d for d in ready if d not in set(bad)]
            self.spent += size * len(ready)
            self.failed += len(bad)
            new = replace(kind, told=kind.wanted, bytes=size)
            self._move(kind, good, replace(new, serving=kind.wanted, state="active"))
            self._move(kind, bad, replace(new, state="quarantined"))

    def _move(self, kind: Kind, devices: Sequence[str], to: Kind) -> None:
        if not devices:
            return
        gone = set(devices)
        left = [device for device in self._members[kind] if device not in gone]
        if left:
            self._members[kind] = left
        else:
            del self._members[kind]
        for device in devices:
            self._place(device, to)

    # What the hub answers

    def _document(self, kind: Kind) -> Json:
        ours: Json = {"bucket": kind.band * BAND} if kind.enrolled else {}
        if kind.before is not None:
            ours["before"] = {MODEL: {"rollout": kind.before[0], "version": kind.before[1]}}
        tags: Json = {"modelsync": ours} | ({"ring": kind.ring} if kind.ring else {})
        report = {"version": kind.serving, "digest": self._digests[kind.serving], "state": kind.state,
                  "desired": kind.told, "bytes": kind.bytes}  # fmt: skip
        wish = {} if kind.wanted is None else {MODEL: {"version": kind.wanted}}
        heard = "2020-01-01T00:00:00Z" if kind.line == "gone" else "2099-01-01T00:00:00Z"
        return {
            "tags": tags,
            "lastActivityTime": heard,
            "connectionState": "Connected" if kind.line == "steady" else "Disconnected",
            "configurations": {kind.applied: {"status": "Applied"}} if kind.applied else {},
            "properties": {"desired": {"modelsync": {"models": wish}},
                           "reported": {"modelsync": {"models": {MODEL: report}}}},
        }  # fmt: skip

    def _matching(self, query: Query) -> list[tuple[Json, list[str]]]:
        pairs = ((self._document(kind), members) for kind, members in self._members.items())
        return [(document, members) for document, members in pairs if query.matches(document)]

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        self.calls["queries"] += 1
        query = parse(text)
        found = self._matching(query)
        if query.counts:
            return self._counted(query, found), None
        begin = int(token or 0)
        rows = ((document, device) for document, members in found for device in members)
        wanted = list(rows)
        part = [query.project({**document, "deviceId": device}) for document, device in wanted[begin : begin + page]]
        return part, str(begin + page) if len(wanted) > begin + page else None

    @staticmethod
    def _counted(query: Query, found: list[tuple[Json, list[str]]]) -> list[Json]:
        rows: dict[str, Json] = {}
        for document, members in found or ([] if query.group else [({}, [])]):
            key = json.dumps([str(lookup(document, path)) for path in query.group])
            row = rows.setdefault(key, {})
            for item in query.items or ():
                value = lookup(document, item.path or ())
                if item.aggregate == "count":
                    row[item.name] = row.get(item.name, 0) + len(members)
                elif item.aggregate == "sum":
                    row[item.name] = row.get(item.name, 0) + (value if isinstance(value, int) else 0) * len(members)
                elif value is not MISSING:
                    row[item.name] = value
        return list(rows.values())

    async def configurations(self) -> list[Json]:
        self.calls["configurations"] += 1
        answers = []
        for each in self._configurations.values():
            custom = {
                name: sum(len(members) for _, members in self._matching(parse(text)))
                for name, text in each.metrics.items()
            }
            answers.append(each.document({}, custom))
        return answers

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        self.calls["configurations"] += 1
        existing = self._configurations.get(identifier)
        if (existing.etag if existing else None) != etag:
            raise ConflictError("it is there, or was changed.")
        made = hub_model.from_body(identifier, body, str(self.time), existing)
        self._configurations[identifier] = made
        return made.document({}, {})

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        self.calls["configurations"] += 1
        if self._configurations.pop(identifier, None) is None:
            raise NotFoundError("it is not there.")

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        self.calls["registry"] += 1
        changes: dict[tuple[Kind, Kind], list[str]] = defaultdict(list)
        for item in items:
            kind, ours = self._kinds[item["id"]], item["tags"]["modelsync"]
            before = ours.get("before", {}).get(MODEL)
            to = replace(
                kind,
                enrolled=kind.enrolled or "bucket" in ours,
                before=(before["rollout"], before["version"]) if before else kind.before,
            )
            changes[kind, to].append(item["id"])
        for (kind, to), devices in changes.items():
            self._move(kind, devices, to)
        return []

    async def invoke(self, device: str, method: str, payload: Any = None, module: str | None = None, *,
                     response_seconds: int = 30, connect_seconds: int = 0) -> MethodResult:  # fmt: skip
        self.calls["methods"] += 1
        return MethodResult(404, None)


async def stocked(root: Path) -> tuple[Store, dict[int, str], dict[tuple[int, int], int]]:
    """A store with four versions of a model, and what each way between them costs."""
    store, keys = create_store(str(root / "store")), str(root / "keys")
    await initialise(store, keys)
    noise = random.Random(5).randbytes(400_000)
    for number in range(1, 5):
        path = root / "model.bin"
        path.write_bytes(noise[: 80_000 * number] + random.Random(number).randbytes(8_000) + noise[80_000 * number :])
        await publish(store, keys, MODEL, path)
    digests = dict((await read_catalogue(store)).model(MODEL).versions)
    prices = {}
    for to, digest in digests.items():
        for base, held in digests.items():
            prices[base, to] = (await price.price(store, digest, (await read_manifest(store, held))[0])).bytes
    return store, digests, prices


async def simulate(devices: int, tier: str, failing: float, price_per_gb: float) -> Json:
    """One rollout from plan to end; the result as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        store, digests, prices = await stocked(Path(folder))
        rates = TIERS[tier]
        hub = SimulatedHub(
            devices, digests, prices, failing, rates["twin_updates"].count / rates["twin_updates"].seconds
        )
        limits = {kind: (int(rate.count * SHARE_OF_RATES), rate.seconds) for kind, rate in rates.items()}
        paced = PacedHub(hub, limits, clock=hub.clock, sleep=hub.sleep)
        gate = Gate(active=0.7, failures=0.02, soak=3600.0, wait=14 * 86400.0)
        plan = await planning.plan(store, paced, MODEL, 4, parse_options(RINGS, gate), price_per_gb=price_per_gb)
        planned = hub.time
        await starting.start(paced, plan, by="simulation", pushes=False)
        over = False
        while not over:
            _, over = await running.settle(paced, store)
            await hub.sleep(300.0)
        ended = hub.time
        overview = await reading.overview(paced, spending=True)
        await hub.sleep(3 * 86400.0)  # who comes daily comes within days
        rings = overview.rollouts[0].record.rings if overview.rollouts else overview.wishes[0].rings
        return {
            "devices": devices,
            "tier": tier,
            "failing": failing,
            "ended": overview.rollouts[0].record.state.value if overview.rollouts else "finished",
            "plan_seconds": round(planned),
            "seconds": round(ended),
            "calls": dict(hub.calls),
            "rings": [
                {
                    "name": each.name,
                    "devices": each.devices,
                    "reachable": each.reachable,
                    "asked": each.opened is not None,
                }
                for each in rings
            ],
            "predicted_bytes": plan.bytes,
            "predicted_money": plan.money(plan.bytes),
            "spent_bytes": hub.spent,
            "failed_devices": hub.failed,
            "on_new_version": sum(len(m) for kind, m in hub._members.items() if kind.serving == 4),
        }


def main() -> None:
    """Run the simulation that the options describe and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--tier", choices=["S1", "S2", "S3"], default="S1")
    parser.add_argument("--failing", type=float, default=0.001, help="share of devices that refuse the release")
    parser.add_argument("--price-per-gb", type=float, default=400.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(simulate(given.devices, given.tier, given.failing, given.price_per_gb))
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['devices']:,} devices on one {found['tier']} unit, {found['failing']:.1%} refuse: {found['ended']}")
    print(f"  planned in {span(found['plan_seconds'])}, over after {span(found['seconds'])}")
    print("  calls " + ", ".join(f"{number:,} {kind}" for kind, number in sorted(found["calls"].items())))
    print(
        f"  predicted {found['predicted_bytes']:,} bytes, {found['predicted_money']:,.0f} at {given.price_per_gb} a GB"
    )
    print(f"  spent {found['spent_bytes']:,} bytes; {found['on_new_version']:,} devices serve it, "
          f"{found['failed_devices']:,} refused")  # fmt: skip


if __name__ == "__main__":
    main()
