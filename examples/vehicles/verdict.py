"""What the lake says of the run: whether every window is in it once, what was found, what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.vehicles.lake import Lake


@dataclass(frozen=True, slots=True)
class Judged:
    """A window of a vehicle: of its `faults` how many were `found`, of the `fine` sensors how many `alarmed`."""

    seq: int
    time: float
    vehicle: str
    window: int
    faults: int
    found: int
    fine: int
    alarmed: int


def judged(lake: Lake) -> list[Judged]:
    """The vehicles' windows as they arrived, each beside what the workshop found and what was alarmed."""
    commits = lake.commits()  # one state of the lake for all three tables
    inspected = lake.read("inspections", None, commits).to_pylist()
    faults = {(each["vehicle"], each["window"]): each["faulty"] for each in inspected}
    alarmed_in = lake.read("alarms", ["vehicle", "window", "sensors"], commits).to_pylist()
    alarms = {(each["vehicle"], each["window"]): each["sensors"] for each in alarmed_in}
    made = []
    for row in lake.read("readings", ["seq", "time", "vehicle", "window"], commits).to_pylist():
        key = (row["vehicle"], row["window"])
        if row["seq"] <= 0:
            continue
        faulty, alarmed = faults[key], set(alarms.get(key, ()))
        bad = {sensor for sensor, fault in enumerate(faulty) if fault}
        made.append(
            Judged(
                row["seq"], row["time"].timestamp(), *key, len(bad), len(bad & alarmed),
                len(faulty) - len(bad), len(alarmed - bad),
            )
        )  # fmt: skip
    return sorted(made, key=lambda each: each.seq)


def share_found(windows: Sequence[Judged]) -> float:
    """Of all faults the share that was found; 0 without any."""
    return sum(each.found for each in windows) / max(1, sum(each.faults for each in windows))


def not_once(lake: Lake) -> list[str]:
    """What is not in the lake exactly once: gaps in the vehicles' windows, and windows that are there twice."""
    wrong = []
    by_vehicle: dict[str, Counter[int]] = {}
    for row in lake.read("readings", ["vehicle", "window", "seq"]).to_pylist():
        if row["seq"] > 0:
            by_vehicle.setdefault(row["vehicle"], Counter())[row["window"]] += 1
    for vehicle, counts in sorted(by_vehicle.items()):
        wrong += [f"{vehicle} lacks window {n}" for n in range(1, max(counts) + 1) if n not in counts]
        wrong += [f"{vehicle} has window {n} {times} times" for n, times in counts.items() if times > 1]
    return wrong


def last_window(lake: Lake, vehicle: str) -> int:
    """The vehicle's newest window in the lake; 0 without any."""
    rows = lake.read("readings", ["vehicle", "window"]).to_pylist()
    return max((row["window"] for row in rows if row["vehicle"] == vehicle), default=0)


def sent(lake: Lake) -> dict[str, int]:
    """Bytes of the messages' bodies by table."""
    return {table: _sum(lake.read(table, ["bytes"])) for table in ("readings", "alarms", "scores")}


def _sum(table: Any) -> int:
    return int(sum(table["bytes"].to_pylist()))
