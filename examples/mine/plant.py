"""The plant: an OPC UA server with grinding lines, their control system, and the log of what really happened to them.

The control system is as plants have them. A human can take a line (Manual), an interlock takes it from everybody, and
advice counts while its heartbeat moves: when that stands still for WATCHDOG_SECONDS, the line goes on by its fallback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from asyncua import Server, ua
from asyncua.server.history import HistoryDict

from examples.mine import tags
from examples.mine.line import SCAN_SECONDS, Instruments, Limits, Line

WATCHDOG_SECONDS = 3.0
_KEPT = 4000
"""Values of a tag that the server's history keeps."""


class ControlledLine:
    """One line under its control system. Everything that happens to it is a line of `log`, flushed at once."""

    def __init__(self, name: str, seed: int, server: Server, log: IO[str]) -> None:
        self.name = name
        self._line, self._instruments = Line(seed), Instruments(seed)
        self._server, self._log, self._limits = server, log, Limits()
        self._advised: float | None = None
        self._beat = -1e9

    async def add(self, history: HistoryDict) -> None:
        """Make the nodes: what is measured, what advice writes, what the operator and the interlock write."""
        folder = await self._server.nodes.objects.add_object(tags.node(self.name, "Line"), self.name)
        beginning: dict[str, ua.DataValue] = {tag: tags.number(0.0) for tag in tags.HISTORIZED}
        beginning |= {"Scan": tags.counter(0), "Advised": tags.number(self._limits.safe), "Heartbeat": tags.counter(0)}
        beginning |= {"Manual": tags.flag(False), "Interlock": tags.flag(False)}
        beginning |= {"OperatorSetpoint": tags.number(self._limits.safe)}
        for tag, value in beginning.items():
            variable = await folder.add_variable(tags.node(self.name, tag), tag, value.Value)
            if tag in tags.HISTORIZED:
                await history.new_historized_node(variable.nodeid, None, _KEPT)
            else:
                await variable.set_writable()
        space = self._server.iserver.aspace
        for tag, heard in (("Advised", self._on_advice), ("Heartbeat", self._on_heartbeat)):
            space.add_datachange_callback(tags.node(self.name, tag), ua.AttributeIds.Value, heard)

    async def scan(self, history: HistoryDict) -> None:
        """One scan of the control system: choose the set-point, move the physics, write the tags."""
        now, stamp = time.monotonic(), datetime.now(UTC)
        source, set_point = self._choose(await self._values("Manual", "Interlock", "OperatorSetpoint"), now)
        if source in ("operator", "interlock"):
            self._advised = set_point  # tracking, as control systems have it: whoever takes over begins there
        elif source == "fallback":
            self._advised = None
        measured = self._line.step(set_point)
        found = self._instruments.read(measured)
        self._say(
            scan=self._line.scan, t=time.time(), stamp=tags.text(stamp), set_point=set_point, source=source,
            feed=round(measured["Feed"], 2), power=round(measured["Power"], 1), best=round(self._line.best_feed, 2),
            tags={tag: quality for tag, (_, quality) in found.items()},
        )  # fmt: skip
        for tag, (value, quality) in found.items():
            await self._write(history, tag, ua.Variant(value, ua.VariantType.Double), tags.QUALITY[quality], stamp)
        await self._write(history, "Setpoint", ua.Variant(set_point, ua.VariantType.Double), ua.StatusCodes.Good, stamp)
        scan = ua.Variant(self._line.scan, ua.VariantType.UInt32)
        await self._write(history, "Scan", scan, ua.StatusCodes.Good, stamp)

    def _choose(self, values: dict[str, Any], now: float) -> tuple[str, float]:
        if values["Interlock"]:
            return "interlock", self._limits.low
        if values["Manual"]:
            return "operator", float(values["OperatorSetpoint"])
        if self._advised is not None and now - self._beat <= WATCHDOG_SECONDS:
            return "advice", self._advised
        return "fallback", self._limits.safe

    async def _values(self, *names: str) -> dict[str, Any]:
        return {name: await self._server.get_node(tags.node(self.name, name)).read_value() for name in names}

    async def _write(self, history: HistoryDict, tag: str, value: ua.Variant, status: int, stamp: datetime) -> None:
        nodeid = tags.node(self.name, tag)
        written = ua.DataValue(value, ua.StatusCode(status), SourceTimestamp=stamp, ServerTimestamp=stamp)
        await history.save_node_value(nodeid, written)
        await self._server.write_attribute_value(nodeid, written)

    async def _on_advice(self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None) -> None:
        """Advice is taken as it comes: that it is within its limits is the actuator's promise."""
        advised = value.Value.Value if value.Value is not None else None
        self._say(advised=advised, t=time.time())
        self._advised = advised if isinstance(advised, float) else None

    async def _on_heartbeat(self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None) -> None:
        self._beat = time.monotonic()

    def _say(self, **what: object) -> None:
        self._log.write(json.dumps({"line": self.name} | what) + "\n")
        self._log.flush()


async def serve(lines: list[str], log: IO[str]) -> None:
    """Serve `lines` until cancelled; print the URL when ready."""
    server, history = Server(), HistoryDict()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/mine")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace(tags.NAMESPACE)
    server.iserver.history_manager.set_storage(history)
    controlled = [ControlledLine(name, seed, server, log) for seed, name in enumerate(lines, 11)]
    for line in controlled:
        await line.add(history)
    async with server:
        port = server.bserver._server.sockets[0].getsockname()[1]
        print(json.dumps({"url": f"opc.tcp://127.0.0.1:{port}/mine", "port": port}), flush=True)
        due = asyncio.get_running_loop().time()
        while True:
            for line in controlled:
                await line.scan(history)
            due += SCAN_SECONDS
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


async def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", required=True, help="names of the lines, separated by commas")
    parser.add_argument("--log", type=Path, required=True, help="file for what happened, JSON lines")
    given = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with given.log.open("a", encoding="utf-8") as log:
        await serve(given.lines.split(","), log)


if __name__ == "__main__":
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_main())
