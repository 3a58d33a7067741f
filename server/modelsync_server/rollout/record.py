"""The rollout's record: all that a rollout is, written into the labels of one configuration that targets nobody. Pure.

Its ETag decides who may act; whoever can read the hub can go on with the rollout. Labels are short texts, so each ring
has one of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from modelsync_protocol.errors import ModelsyncError, UsageError
from modelsync_server.rollout.gate import Counts, Gate, parse_gate
from modelsync_server.rollout.target import Target

SCHEMA = "1"
MARK = "modelsync"
"""The label that says what a configuration of ours is: record, ring, back or fleet."""

_ROLLOUT = re.compile(r"[a-z0-9]{4,16}")
MAX_WHY_CHARACTERS = 300


class State(StrEnum):
    """Where a rollout stands. The first ones go on by themselves; the others wait for an operator or are over."""

    PREPARING = "preparing"
    RUNNING = "running"
    RETURNING = "returning"
    FINISHING = "finishing"
    PAUSED = "paused"
    STOPPED = "stopped"
    RETURNED = "returned"
    ABORTED = "aborted"


MOVING = frozenset({State.PREPARING, State.RUNNING, State.RETURNING, State.FINISHING})
OVER = frozenset({State.STOPPED, State.RETURNED, State.ABORTED})


@dataclass(frozen=True, slots=True)
class RingRecord:
    """One ring in the record. `devices`, `reachable`, `bytes`, `worst` are the plan's; times are the hub's clock.

    `opened` is when it was asked (None: not yet), `ripe` when enough were active, `counts` what it ended with (None:
    it has not ended), `held` the bytes that its devices had reported of this version before it was asked, `spent`
    those since.
    """

    name: str
    where: str
    gate: Gate
    devices: int = 0
    reachable: int = 0
    bytes: int = 0
    worst: int = 0
    opened: float | None = None
    ripe: float | None = None
    held: int = 0
    spent: int | None = None
    returned: bool = False
    counts: Counts | None = None
    unsupported: int = 0
    """Devices that, by the plan, can't run the version; `reachable` leaves them out."""

    def dump(self) -> str:
        """Its label."""
        numbers = None if self.counts is None else [
            self.counts.asked,
            self.counts.active,
            self.counts.waiting,
            self.counts.refused,
            self.counts.rolled_back,
        ]  # fmt: skip
        document = {
            "name": self.name,
            "where": self.where,
            "gate": self.gate.document(),
            "plan": [self.devices, self.reachable, self.bytes, self.worst],
            "opened": self.opened,
            "ripe": self.ripe,
            "held": self.held,
            "spent": self.spent,
            "returned": self.returned,
            "counts": numbers,
            "unsupported": [self.unsupported, self.counts.unsupported if self.counts else 0],
        }
        if document["unsupported"] == [0, 0]:
            del document["unsupported"]
        return json.dumps({key: value for key, value in document.items() if value is not None and value is not False})


@dataclass(frozen=True, slots=True)
class Record:
    """One rollout of one model. `ring` is the number of the ring that is open or next, `returning` those that go back.

    `aborted`: an operator ended it (not a gate). `needs_before`: no older wish holds for everyone, so what devices had
    is written down. `etag` is the hub's.
    """

    rollout: str
    model: str
    version: int
    target: Target
    state: State
    rings: tuple[RingRecord, ...]
    by: str = ""
    started: float = 0.0
    ring: int = 0
    why: str = ""
    priority: int = 1
    returning: tuple[int, ...] = ()
    aborted: bool = False
    needs_before: bool = False
    pushes: bool = False
    price_per_gb: float | None = None
    currency: str = ""
    etag: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.model} {self.version} ({self.rollout})"

    @property
    def current(self) -> RingRecord:
        return self.rings[min(self.ring, len(self.rings) - 1)]

    def stamp(self, number: int) -> str:
        """How an Edge module's wish names the ring that it came from."""
        return f"{self.rollout}.{number}"

    def with_ring(self, number: int, ring: RingRecord) -> Record:
        return replace(self, rings=(*self.rings[:number], ring, *self.rings[number + 1 :]))

    def labels(self) -> dict[str, str]:
        """The labels that hold it."""
        found = {
            MARK: "record",
            "schema": SCHEMA,
            "rollout": self.rollout,
            "model": self.model,
            "version": str(self.version),
            "target": str(self.target),
            "state": self.state.value,
            "ring": str(self.ring),
            "by": self.by,
            "started": repr(self.started),
            "why": self.why[:MAX_WHY_CHARACTERS],
            "priority": str(self.priority),
            "options": json.dumps(
                [self.returning, self.aborted, self.needs_before, self.pushes, self.price_per_gb, self.currency]
            ),
        }
        return found | {f"ring{number}": ring.dump() for number, ring in enumerate(self.rings)}


def parse(labels: object, etag: str) -> Record:
    """Read a record's labels; UsageError if somebody made nonsense of them."""
    try:
        assert isinstance(labels, Mapping)
        if labels["schema"] != SCHEMA or not _ROLLOUT.fullmatch(labels["rollout"]):
            raise ValueError("another schema")
        rings: list[RingRecord] = []
        while (text := labels.get(f"ring{len(rings)}")) is not None:
            rings.append(_ring(json.loads(text)))
        returning, aborted, needs_before, pushes, price, currency = json.loads(labels["options"])
        record = Record(
            labels["rollout"],
            labels["model"],
            int(labels["version"]),
            Target.parse(labels["target"]),
            State(labels["state"]),
            tuple(rings),
            str(labels["by"]),
            _time(labels["started"]),
            int(labels["ring"]),
            str(labels["why"])[:MAX_WHY_CHARACTERS],
            int(labels["priority"]),
            tuple(int(number) for number in returning),
            bool(aborted),
            bool(needs_before),
            bool(pushes),
            None if price is None else _time(price),
            str(currency),
            etag,
        )
        if not record.rings or not 0 <= record.ring <= len(record.rings):
            raise ValueError("no rings")
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, ModelsyncError) as error:
        model = str(labels.get("model", "NAME"))[:63] if isinstance(labels, Mapping) else "NAME"
        raise UsageError(
            f"the record of a rollout was edited by hand and can't be read any more ({error!r:.80}): mend the labels "
            f"of modelsync-{model}, or end it: `modelsync rollout abort {model} --return` takes its rings back."
        ) from error
    return record


def parse_ring(text: object) -> RingRecord:
    """Read one ring's label; UsageError."""
    try:
        return _ring(json.loads(str(text)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError("the label of a ring was edited by hand and can't be read any more.") from error


def _time(value: object) -> float:
    """A finite number; ValueError."""
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError("no number")
    return number


def _ring(document: Mapping[str, Any]) -> RingRecord:
    devices, reachable, size, worst = (int(each) for each in document["plan"])
    counts = document.get("counts")
    opened, ripe = document.get("opened"), document.get("ripe")
    planned, counted = (int(each) for each in document.get("unsupported", (0, 0)))
    return RingRecord(
        str(document["name"]),
        str(document["where"]),
        parse_gate(document["gate"], Gate()),
        devices,
        reachable,
        size,
        worst,
        None if opened is None else _time(opened),
        None if ripe is None else _time(ripe),
        int(document.get("held", 0)),
        None if document.get("spent") is None else int(document["spent"]),
        bool(document.get("returned", False)),
        None if counts is None else replace(Counts(*(int(each) for each in counts)), unsupported=counted),
        planned,
    )
