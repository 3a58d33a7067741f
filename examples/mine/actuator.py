"""The actuator: answers in, set-points out over OPC UA. The rules are guard.py's; here are the line and the clock.

A set-point and the heartbeat are written in one request, so the plant never sees a heart that beats without advice. Is
the actuator dead, or its line cut, then the heart stands still and the plant goes on by its own fallback.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from asyncua import Client, ua

from examples.mine import edge, tags
from examples.mine.guard import Claim, Decision, Guard, Plant, Why, plant
from examples.mine.line import OUTPUT, SCAN_SECONDS, Limits

_AGAIN_SECONDS = 0.5
_LATE_SECONDS = 1.0
"""What was read longer ago is read again before anything is written by it: a human may have the line since."""


class Actuator:
    """`write` and `listen` until cancelled."""

    def __init__(self, line: str, url: str, limits: Limits, hub: edge.Edge) -> None:
        self._line, self._url, self._hub = line, url, hub
        self._guard = Guard(limits)
        self._claim = Claim(secrets.randbits(32))
        self._last: Decision | None = None
        self._refused = False

    async def listen(self) -> None:
        """Offer each answer to the guard, and say what became of it."""
        clock = asyncio.get_running_loop().time
        while True:
            source, message = await self._hub.inbox.get()
            said = message["properties"]
            scan, stamp = _count(said.get("scan", message.get("scan"))), said.get("stamp", message.get("stamp"))
            asked: Any = None
            if source == "answers":
                outputs = message.get("outputs")
                asked = outputs.get(OUTPUT) if isinstance(outputs, dict) else type(outputs).__name__
                verdict = self._guard.offer(asked, scan, clock()) or "followed"
            else:
                verdict = "unfit" if source == "unfit" else "model failed"
            decision = {
                "line": self._line, "scan": scan, "stamp": stamp[:40] if isinstance(stamp, str) else None,
                "version": _count(message.get("version")), "asked": _quotable(asked), "verdict": verdict,
                "set_point": self._last and self._last.value, "why": self._last and str(self._last.why),
            }  # fmt: skip
            await self._hub.send("decisions", decision, f"{self._line}-decision-{scan}")

    async def write(self) -> None:
        """Write set-point and heartbeat, scan by scan; a lost line is built anew."""
        while True:
            try:
                async with Client(self._url, timeout=2) as client:
                    await self._write(client)
            except (OSError, TimeoutError, ConnectionError, ua.UaError) as error:
                logging.warning("the plant can't be reached (%s); trying again.", error or type(error).__name__)
            self._guard.lost()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _write(self, client: Client) -> None:
        node = {tag: client.get_node(tags.node(self._line, tag)) for tag in (*_READ, "Advised")}
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            begun = clock()
            read = [tags.good(each) for each in await client.read_attributes([node[tag] for tag in _READ])]
            now = clock()
            if now - begun <= _LATE_SECONDS:
                decision, written = self._decide(read[0], plant(tuple(read[1:])), now), {}
                if decision.value is not None:
                    written["Advised"] = tags.number(decision.value)
                if decision.beats and not self._refused:
                    written["Heartbeat"] = tags.counter(self._claim.beat())
                taken = await client.write_values([node[tag] for tag in written], list(written.values()), False)
                self._note(dict(zip(written, taken, strict=True)))
                self._guard.written(clock())
            due = max(due + SCAN_SECONDS, clock() - SCAN_SECONDS)
            await asyncio.sleep(max(0.0, due - clock()))

    def _decide(self, beat: object, seen: Plant | None, now: float) -> Decision:
        before = self._last
        if seen is None or beat is None:
            decision = self._guard.step(None, now)
        elif self._claim.holds(beat, now):
            decision = self._guard.step(seen, now)
        else:
            self._guard.lost()
            decision = Decision(None, Why.OTHER)
        if not decision.beats and (before is None or before.why is not decision.why):
            logging.warning("nothing is written: %s.", _REASONS[decision.why])
        self._last = decision
        return decision

    def _note(self, taken: dict[str, ua.StatusCode]) -> None:
        """Whether the plant took it. While it refuses advice the heart stands still, or old advice stayed in force."""
        refused = {tag: status.name for tag, status in taken.items() if not status.is_good()}
        if refused:
            self._guard.lost()
            if not self._refused:
                logging.warning("the plant refuses what is written: %s.", refused)
        if taken:
            self._refused = bool(refused)


_READ = ("Heartbeat", "Manual", "Interlock", "Setpoint", "Scan")
_LARGEST = 1e300
_REASONS = {
    Why.UNKNOWN: "the plant does not say in good quality who has the line",
    Why.OTHER: "another actuator's heart beats in this line, or did a moment ago",
}


def _count(value: object) -> int:
    """A count that fits the plant's counters, from a number or its digits; 0 for everything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 32 else 0


def _quotable(asked: object) -> object:
    """What a decision says was asked: a finite number as it came, else in few words; JSON has no NaN."""
    one = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
    if one is None or (isinstance(one, int | float) and abs(one) < _LARGEST):
        return asked
    return f"a {type(one).__name__}"


def main() -> None:
    """`python -m examples.mine.actuator`."""
    parser = edge.arguments("Writes a line's set-points.")
    parser.add_argument("--plant", required=True, metavar="URL", help="the plant's OPC UA server")
    given = parser.parse_args()

    async def work() -> None:
        hub = edge.Edge(given.connection, given.ca)
        actuator = Actuator(given.line, given.plant, Limits(), hub)
        async with asyncio.TaskGroup() as group:
            for part in (hub.run(), actuator.listen(), actuator.write()):
                group.create_task(part)

    edge.run(work)


if __name__ == "__main__":
    main()
