"""What every small service of a story is: a module of edgeHub with inputs and outputs. No service's work is here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from modelsync_inference.edge.link import EdgeLink
from modelsync_inference.edge.messages import Incoming, Outgoing
from modelsync_inference.edge.options import EdgeIdentity

Json = dict[str, Any]


class Edge:
    """A module's inputs and outputs. Messages are JSON objects; one that is none is dropped with a line in the log."""

    def __init__(self, connection: Path, ca: Path) -> None:
        """`connection`: a file with the module's connection string; on IoT Edge its environment would say it."""
        self.inbox: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        self._link = EdgeLink(EdgeIdentity(connection.read_text().strip(), ca.read_text()), self._take)

    async def run(self) -> None:
        """Be connected, again and again, until cancelled."""
        try:
            await self._link.run()
        finally:
            await self._link.close()

    async def send(self, output: str, document: Json, message_id: str, **properties: str) -> None:
        """Return when edgeHub has the message. A message whose acknowledgement was lost goes twice, under one id."""
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        await self._link.send(Outgoing(output, body, message_id, None, properties))

    def _take(self, message: Incoming) -> None:
        try:
            document = json.loads(message.body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            self.inbox.put_nowait((message.input, document | {"properties": dict(message.properties)}))
        else:
            logging.warning("a message on input %s is no JSON object; it is dropped.", message.input)


def run(*works: Callable[[], Awaitable[None]]) -> None:
    """Do all of these until SIGTERM; the first that fails ends the process, and the supervisor starts it again."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(works))


async def _run(works: tuple[Callable[[], Awaitable[None]], ...]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)  # the SDK's threads outlive this loop
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(_awaited(work))


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()
