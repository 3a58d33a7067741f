"""The actuator: answers in, set-points out over OPC UA. The rules are guard.py's; here are the line and the clock.

A set-point and the heartbeat are written in one request, so the plant never sees a heart that beats without advice. Is
the actuator dead, or its line cut, then the heart stands still and the plant goes on by its own fallback.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asyncua import Client, ua

from examples.mine import edge, tags
from examples.mine.guard import Decision, Guard, Plant
from examples.mine.line import OUTPUT, SCAN_SECONDS, Limits

_AGAIN_SECONDS = 0.5


class Actuator:
    """`write` and `listen` until cancelled."""

    def __init__(self, line: str, url: str, limits: Limits, hub: edge.Edge) -> None:
        self._line, self._url, self._hub = line, url, hub
        self._guard = Guard(limits)
        self._beats = 0
        self._last: Decision | None = None

    async def listen(self) -> None:
        """Offer each answer to the guard, and say what became of it."""
        clock = asyncio.get_running_loop().time
        while True:
            source, message = await self._hub.inbox.get()
            said = message["properties"]
            scan = int(said.get("scan", message.get("scan", 0)))
            asked: Any = None
            if source == "answers":
                asked = message.get("outputs", {}).get(OUTPUT)
                verdict = self._guard.offer(asked, scan, clock()) or "followed"
            else:
                verdict = "unfit" if source == "unfit" else "model failed"
            decision = {
                "line": self._line, "scan": scan, "stamp": said.get("stamp", message.get("stamp")),
                "version": int(message.get("version", 0)), "asked": asked, "verdict": verdict,
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
        node = {tag: client.get_node(tags.node(self._line, tag)) for tag in (*_READ, "Advised", "Heartbeat")}
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            manual, interlock, effective = await client.read_values([node[tag] for tag in _READ])
            decision = self._last = self._guard.step(Plant(bool(manual), bool(interlock), float(effective)), clock())
            self._beats += 1
            written = {"Heartbeat": tags.counter(self._beats)}
            if decision.value is not None:
                written = {"Advised": tags.number(decision.value)} | written
            await client.write_values([node[tag] for tag in written], list(written.values()))
            self._guard.written(clock())
            due = max(due + SCAN_SECONDS, clock() - SCAN_SECONDS)
            await asyncio.sleep(max(0.0, due - clock()))


_READ = ("Manual", "Interlock", "Setpoint")


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
