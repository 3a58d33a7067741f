"""The collector: reads a line's tags over OPC UA and sends each scan as one row. Knows no window and no model.

Every row is read from the server's history, from the last one that edgeHub has acknowledged: so a scan is sent whether
the collector saw it live, was killed, or had no line to the plant. Changes of the tag Scan say when to look.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Client, ua

from examples.mine import edge, tags

_AGAIN_SECONDS = 0.5
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_REACH = timedelta(minutes=10)
"""So far back a collector looks that has no state of its own."""


class Place:
    """How far the rows have come, in a file that survives a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scan, self.stamp = 0, _NEVER
        try:
            found = json.loads(path.read_text())
            self.scan, self.stamp = int(found["scan"]), datetime.fromisoformat(found["stamp"]).astimezone(UTC)
        except (OSError, ValueError, OverflowError, KeyError, TypeError):
            logging.warning("no usable place in %s; beginning with what the history has.", path.name)

    def reached(self, scan: int, stamp: datetime) -> None:
        """edgeHub has everything up to `scan`."""
        self.scan, self.stamp = scan, stamp
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps({"scan": scan, "stamp": tags.text(stamp)}))
        beside.replace(self._path)


class _Changes:
    """asyncua's handler: Scan has changed, at `stamp` by the plant's clock."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.stamp = _NEVER

    def datachange_notification(self, node: object, value: object, data: Any) -> None:
        self.stamp = data.monitored_item.Value.SourceTimestamp or datetime.now(UTC)
        self.event.set()


def rows(line: str, found: dict[str, list[ua.DataValue]]) -> list[dict[str, Any]]:
    """The rows in what the history gave by tag: a tag that said nothing in a scan is not in its row."""
    by_stamp: dict[datetime, dict[str, list[Any]]] = {}
    for tag, values in found.items():
        for value in values:
            if value.SourceTimestamp is not None and value.Value is not None:
                by_stamp.setdefault(value.SourceTimestamp, {})[tag] = _reading(value)
    made = []
    for stamp, values_of in sorted(by_stamp.items()):
        scan, quality = values_of.pop("Scan", [0, "bad"])
        if quality == "good" and type(scan) is int:
            made.append({"line": line, "scan": scan, "stamp": tags.text(stamp), "tags": values_of})
    return made


def _reading(value: ua.DataValue) -> list[Any]:
    """[value, quality]; what is no finite number is a bad reading, whatever the plant says of it."""
    number = value.Value.Value
    if isinstance(number, int | float) and math.isfinite(number):
        return [number, tags.quality(value.StatusCode or ua.StatusCode())]
    return [0, "bad"]


def beginning(reached: datetime, newest: datetime) -> datetime:
    """From when on the history is read, by the plant's clock only: ours may be wrong, the plant's set back."""
    earliest = newest - _REACH
    return max(reached, earliest) if reached <= newest else earliest


async def read_since(client: Client, line: str, begin: datetime) -> dict[str, list[ua.DataValue]]:
    """One HistoryRead of all tags from `begin` on, Scan first."""
    details = ua.ReadRawModifiedDetails(IsReadModified=False, StartTime=begin, EndTime=ua.get_win_epoch())
    wanted = [ua.HistoryReadValueId(NodeId=tags.node(line, tag)) for tag in tags.HISTORIZED]
    results = await client.uaclient.history_read(
        ua.HistoryReadParameters(
            HistoryReadDetails=details, TimestampsToReturn=ua.TimestampsToReturn.Source, NodesToRead=wanted
        )
    )
    found = {}
    for tag, result in zip(tags.HISTORIZED, results, strict=True):
        result.StatusCode.check()
        found[tag] = list(getattr(result.HistoryData, "DataValues", ()))
    return found


class Collector:
    """`run` until cancelled."""

    def __init__(self, line: str, url: str, place: Place, hub: edge.Edge) -> None:
        self._line, self._url, self._place, self._hub = line, url, place, hub

    async def run(self) -> None:
        """Collect; a lost line to the plant is built anew."""
        while True:
            try:
                async with Client(self._url, timeout=4) as client:
                    await self._collect(client)
            except (OSError, TimeoutError, ConnectionError, ua.UaError) as error:
                logging.warning("the plant can't be reached (%s); trying again.", error or type(error).__name__)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _collect(self, client: Client) -> None:
        changes = _Changes()
        subscription = await client.create_subscription(100, changes)
        await subscription.subscribe_data_change(client.get_node(tags.node(self._line, "Scan")))
        while True:
            async with asyncio.timeout(4):
                await changes.event.wait()
            changes.event.clear()
            begin = beginning(self._place.stamp, changes.stamp)
            for row in rows(self._line, await read_since(client, self._line, begin)):
                stamp = datetime.fromisoformat(row["stamp"])
                if row["scan"] > self._place.scan or stamp > self._place.stamp:  # a plant that restarts counts anew
                    await self._hub.send("rows", row, f"{self._line}-row-{row['scan']}")
                    self._place.reached(row["scan"], stamp)


def main() -> None:
    """`python -m examples.mine.collector`."""
    parser = edge.arguments("Collects a line's tags.")
    parser.add_argument("--plant", required=True, metavar="URL", help="the plant's OPC UA server")
    parser.add_argument("--place", type=Path, required=True, help="file that says how far the rows have come")
    given = parser.parse_args()

    async def work() -> None:
        hub = edge.Edge(given.connection, given.ca)
        async with asyncio.TaskGroup() as group:
            group.create_task(hub.run())
            group.create_task(Collector(given.line, given.plant, Place(given.place), hub).run())

    edge.run(work)


if __name__ == "__main__":
    main()
