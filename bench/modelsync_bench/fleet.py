"""A month of a fleet, device by device and seeded: mixed versions, cuts, retries, budgets. Nothing is measured here.

A release comes on given days. A device that needs it makes attempts; on the line cuts come at random, by the megabyte,
and what a cut destroys is paid for again. Where there is a budget it is the daemon's (`modelsync_daemon.disk.ledger`):
an attempt begins only if the predicted bytes fit into what the day and the month have left, all traffic counted. All
arrays are (devices,), bytes as float64, which holds them exactly up to 2^53.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

HELD = ("one behind", "two behind", "three behind", "nothing installed")
"""What a device may hold when a release comes: the columns of a way's costs, and of a mix."""

_OLDEST = 2
_MEGA = 1_000_000
_GIGA = 1_000_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Way:
    """A way of updating. Bytes on the line, both directions, by HELD.

    - `wire`: an undisturbed update. `predicted`: what is held against a budget; None: it knows no budget.
    - `lost`: most bytes that a cut destroys of what had come; inf: it starts anew.
    - `again`: bytes that going on after a cut costs (a handshake and what is asked for once more).
    - `idle_day`: the idle connection, bytes a day.
    """

    name: str
    wire: tuple[float, float, float, float]
    predicted: tuple[float, float, float, float] | None = None
    lost: float = inf
    again: float = 0.0
    idle_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who and when. `mix`: shares by HELD, summing to 1. `releases`: days (from 0) on which one comes.

    `cuts_per_mb`: expected cuts for each 10^6 bytes carried. `attempts`: most a device makes in a day. Limits in bytes.
    """

    devices: int = 100_000
    days: int = 30
    releases: tuple[int, ...] = (0, 7, 15, 22)
    mix: tuple[float, float, float, float] = (0.85, 0.08, 0.04, 0.03)
    cuts_per_mb: float = 0.01
    attempts: int = 8
    bytes_per_day: float | None = None
    bytes_per_month: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.devices < 1 or self.days < 1 or self.attempts < 1 or self.cuts_per_mb < 0:
            raise ValueError("devices, days and attempts are at least 1, cuts per MB at least 0.")
        if len(self.mix) != len(HELD) or min(self.mix) < 0 or abs(sum(self.mix) - 1) > 1e-9:
            raise ValueError(f"the mix has {len(HELD)} shares ({', '.join(HELD)}) that sum to 1.")
        if any(not 0 <= day < self.days for day in self.releases) or list(self.releases) != sorted(set(self.releases)):
            raise ValueError("releases are ascending days of the month.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A month of the whole fleet. `update_bytes` are all bytes of updates, `resent_bytes` those that cuts added.

    `deferred`: device-days on which an update waited for its budget. `unfinished`: devices that do not hold the last
    release at the month's end. `done_share`: share of devices that held the month's first release at the end of each
    day after it came, until the next came.
    """

    update_bytes: float
    idle_bytes: float
    cuts: int
    resent_bytes: float
    finished: int
    deferred: int
    unfinished: int
    done_share: tuple[float, ...]

    @property
    def total_bytes(self) -> float:
        """Updates and idle connections."""
        return self.update_bytes + self.idle_bytes


def dollars(count: float, per_gb: float) -> float:
    """Price of bytes; a gigabyte is 10^9, as lines are billed."""
    return count / _GIGA * per_gb


def undisturbed(way: Way, mix: tuple[float, float, float, float]) -> float:
    """Expected bytes of one device's update without cuts."""
    return sum(share * cost for share, cost in zip(mix, way.wire, strict=True))


BLOCK_DEVICES = 100_000
"""Devices are drawn in blocks of so many, each with a stream of chance of its own, wherever a block is simulated."""


def simulate(way: Way, fleet: Fleet) -> Outcome:
    """Run the month. The same fleet, seed included, gives the same outcome."""
    return joined([simulate_block(way, fleet, block) for block in range(blocks(fleet))], fleet)


def blocks(fleet: Fleet) -> int:
    """How many blocks a fleet has."""
    return -(-fleet.devices // BLOCK_DEVICES)


def joined(parts: Sequence[Outcome], fleet: Fleet) -> Outcome:
    """The outcome of a whole fleet from those of its blocks, in their order."""
    if len(parts) == 1:
        return parts[0]
    sizes = [_size(fleet, block) for block in range(len(parts))]
    days = range(len(parts[0].done_share))
    done = [sum(round(part.done_share[day] * size) for part, size in zip(parts, sizes, strict=True)) for day in days]
    return Outcome(
        sum(part.update_bytes for part in parts),
        sum(part.idle_bytes for part in parts),
        sum(part.cuts for part in parts),
        sum(part.resent_bytes for part in parts),
        sum(part.finished for part in parts),
        sum(part.deferred for part in parts),
        sum(part.unfinished for part in parts),
        tuple(count / fleet.devices for count in done),
    )


def _size(fleet: Fleet, block: int) -> int:
    return min(BLOCK_DEVICES, fleet.devices - block * BLOCK_DEVICES)


def simulate_block(way: Way, fleet: Fleet, block: int) -> Outcome:
    """The month of one block of the fleet."""
    rng = np.random.default_rng(fleet.seed if block == 0 else (fleet.seed, block))
    fleet = replace(fleet, devices=_size(fleet, block))
    month = _Month(way, fleet)
    for day in range(fleet.days):
        if day in fleet.releases:
            month.release(rng)
        month.day(rng)
    return month.outcome()


class _Month:
    """The devices' state while a month runs."""

    def __init__(self, way: Way, fleet: Fleet) -> None:
        count = fleet.devices
        self._way, self._fleet = way, fleet
        self._held: Ints = np.zeros(count, dtype=np.int64)
        self._remaining: Floats = np.zeros(count)
        self._begun = np.zeros(count, dtype=bool)
        self._pending = np.zeros(count, dtype=bool)
        self._month: Floats = np.zeros(count)
        self._spent = self._needed = 0.0
        self._cuts = self._deferred = self._finished = 0
        self._releases = 0
        self._shares: list[float] = []

    def release(self, rng: np.random.Generator) -> None:
        """A new version: who was up to date holds what the mix says; who was not falls one version further behind."""
        fresh = rng.choice(len(HELD), size=self._fleet.devices, p=np.array(self._fleet.mix))
        older = np.where(self._held < _OLDEST, self._held + 1, self._held)
        self._held = np.where(self._pending, older, fresh)
        self._remaining = np.array(self._way.wire)[self._held]
        self._begun[:] = False
        self._pending[:] = True
        self._releases += 1

    def day(self, rng: np.random.Generator) -> None:
        """Idle traffic first, as the line is always there; then attempts: until done, cut too often, or too dear."""
        today = np.full(self._fleet.devices, self._way.idle_day)
        waited = np.zeros(self._fleet.devices, dtype=bool)
        self._month += self._way.idle_day
        for _ in range(self._fleet.attempts):
            who = np.flatnonzero(self._pending)
            if self._way.predicted is not None:
                fits = np.array(self._way.predicted)[self._held[who]] <= self._left(today[who], self._month[who])
                # The daemon holds the budget against a plan's first byte; what is begun goes on.
                fits |= self._begun[who]
                waited[who[~fits]] = True
                who = who[fits]
            if not len(who):
                break
            carried = self._attempt(who, rng)
            today[who] += carried
            self._month[who] += carried
        self._deferred += int(np.count_nonzero(waited & self._pending))
        if self._releases == 1:
            self._shares.append(1 - float(np.count_nonzero(self._pending)) / self._fleet.devices)

    def outcome(self) -> Outcome:
        """The sums."""
        fleet = self._fleet
        return Outcome(
            self._spent,
            fleet.devices * fleet.days * self._way.idle_day,
            self._cuts,
            self._spent - self._needed,
            self._finished,
            self._deferred,
            int(np.count_nonzero(self._pending)),
            tuple(self._shares),
        )

    def _left(self, today: Floats, month: Floats) -> Floats:
        """As `Ledger.left`: the lowest of what both limits leave, at least 0."""
        left = np.full(len(today), inf)
        for limit, amount in ((self._fleet.bytes_per_day, today), (self._fleet.bytes_per_month, month)):
            if limit is not None:
                left = np.minimum(left, limit - amount)
        kept: Floats = np.maximum(left, 0.0)
        return kept

    def _attempt(self, who: Ints, rng: np.random.Generator) -> Floats:
        """One attempt of each device in `who`; what it carried."""
        wanted = self._remaining[who]
        rate = self._fleet.cuts_per_mb / _MEGA
        until = rng.exponential(1 / rate, len(who)) if rate else np.full(len(who), inf)
        carried: Floats = np.minimum(until, wanted)
        cut = until < wanted
        whole = np.array(self._way.wire)[self._held[who]]
        anew = wanted - carried + np.minimum(carried, self._way.lost) + self._way.again
        self._remaining[who] = np.where(cut, np.minimum(anew, whole), 0.0)
        self._begun[who] = True
        done = who[~cut]
        self._pending[done] = False
        self._spent += float(carried.sum())
        self._needed += float(whole[~cut].sum())
        self._cuts += int(np.count_nonzero(cut))
        self._finished += len(done)
        return carried
