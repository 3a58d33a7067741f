"""The windowing service: rows in, windows out. Windows that are fit to be scored go with the property quality=good."""

from __future__ import annotations

import asyncio
import logging

from examples.mine import edge
from examples.mine.features import Windows
from examples.mine.line import INPUT


async def work(line: str, hub: edge.Edge) -> None:
    """Make windows until cancelled."""
    windows = Windows()
    while True:
        _, row = await hub.inbox.get()
        try:
            window = windows.add(row)
        except ValueError as error:
            logging.warning("%s; it is dropped.", error)
            continue
        if window is None:
            continue
        stamp = row.get("stamp", "")
        made = {"line": line, "scan": window.scan, "stamp": stamp}
        properties = {"line": line, "scan": str(window.scan), "stamp": stamp}
        if window.features is None:
            made["unfit"] = window.unfit
            await hub.send("windows", made, f"{line}-window-{window.scan}", quality="bad", **properties)
        else:
            made[INPUT] = [float(value) for value in window.features]
            await hub.send("windows", made, f"{line}-window-{window.scan}", quality="good", **properties)


def main() -> None:
    """`python -m examples.mine.windowing`."""
    given = edge.arguments("Makes windows of rows.").parse_args()

    async def both() -> None:
        hub = edge.Edge(given.connection, given.ca)
        async with asyncio.TaskGroup() as group:
            group.create_task(hub.run())
            group.create_task(work(given.line, hub))

    edge.run(both)


if __name__ == "__main__":
    main()
