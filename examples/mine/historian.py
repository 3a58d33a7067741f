"""The historian's client: rows and decisions into PI Web API by batches of stream writes, until they are taken.

A value is written for its own time with `updateOption=Replace`, so that one that is sent twice is there once.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from pathlib import Path
from typing import Any

import aiohttp

from examples.mine import edge
from examples.mine.line import MEASURED

_MOST = 400
"""Messages in one batch."""
_AGAIN_SECONDS = 0.5

POINTS = ("Scan", *MEASURED, "Setpoint", "Decided", "ModelVersion", "Asked", "Verdict")
"""PI points of a line, by name after `LINE.`."""


def values(source: str, message: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """PITimedValues of a message, by point; LookupError, TypeError or ValueError if it is neither row nor decision."""
    stamp = message["stamp"]
    if not isinstance(stamp, str):
        raise TypeError("it has no time")
    if source == "rows":
        found: dict[str, dict[str, Any]] = {"Scan": {"Timestamp": stamp, "Value": message["scan"], "Good": True}}
        for tag, (value, quality) in dict(message["tags"]).items():
            if tag not in POINTS:
                raise ValueError(f"no point is called {tag!r:.40}")
            found[tag] = {
                "Timestamp": stamp, "Value": value, "Good": quality != "bad", "Questionable": quality == "uncertain",
            }  # fmt: skip
        return found
    asked = message["asked"]
    number = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
    decided = {"Decided": message["scan"], "ModelVersion": message["version"], "Verdict": message["verdict"]}
    if isinstance(number, int | float):
        decided["Asked"] = number
    return {point: {"Timestamp": stamp, "Value": value, "Good": True} for point, value in decided.items()}


class PiWebApi:
    """A client of PI Web API 2019 and newer: points by path, batches, Basic authentication."""

    def __init__(self, url: str, server: str, login: str, session: aiohttp.ClientSession) -> None:
        self.url, self._server, self._session = url.rstrip("/"), server, session
        self.headers = {"X-Requested-With": "modelsync", "Authorization": "Basic " + _base64(login)}
        self._web_ids: dict[str, str] = {}

    async def web_id(self, point: str) -> str:
        """The WebId of a point; it is asked for once."""
        if point not in self._web_ids:
            path = f"\\\\{self._server}\\{point}"
            async with self._session.get(f"{self.url}/points", params={"path": path}, headers=self.headers) as answer:
                answer.raise_for_status()
                self._web_ids[point] = (await answer.json())["WebId"]
        return self._web_ids[point]

    async def write(self, values_of: dict[str, list[dict[str, Any]]]) -> None:
        """Write values by point in one batch; raises aiohttp.ClientError unless every part of it was taken."""
        batch = {}
        for point, found in values_of.items():
            resource = f"{self.url}/streams/{await self.web_id(point)}/recorded?updateOption=Replace"
            batch[point] = {"Method": "POST", "Resource": resource, "Content": found}
        async with self._session.post(f"{self.url}/batch", json=batch, headers=self.headers) as answer:
            answer.raise_for_status()
            parts = await answer.json()
        bad = {point: part["Status"] for point, part in parts.items() if not 200 <= part["Status"] < 300}
        if bad or parts.keys() != batch.keys():
            raise aiohttp.ClientError(f"the historian did not take {bad or 'everything'}")

    async def recorded(self, point: str, most: int = 100_000) -> list[dict[str, Any]]:
        """The values of a point, oldest first."""
        parameters = {"startTime": "*-1d", "endTime": "*", "maxCount": str(most)}
        resource = f"{self.url}/streams/{await self.web_id(point)}/recorded"
        async with self._session.get(resource, params=parameters, headers=self.headers) as answer:
            answer.raise_for_status()
            items: list[dict[str, Any]] = (await answer.json())["Items"]
            return items


async def work(line: str, hub: edge.Edge, url: str, login: str) -> None:
    """Write what comes until cancelled; what can't be written now is tried again, in order."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        historian = PiWebApi(url, "MINE", login, session)
        while True:
            waiting = [await hub.inbox.get()]
            await asyncio.sleep(0.25)  # a batch is cheaper than its parts
            while len(waiting) < _MOST and not hub.inbox.empty():
                waiting.append(hub.inbox.get_nowait())
            by_point: dict[str, list[dict[str, Any]]] = {}
            for source, message in waiting:
                try:
                    found = values(source, message)
                except (LookupError, TypeError, ValueError) as error:
                    logging.warning("a message on %s can't be archived (%s); it is dropped.", source, error)
                    continue
                for point, value in found.items():
                    by_point.setdefault(f"{line}.{point}", []).append(value)
            while True:
                try:
                    await historian.write(by_point)
                    break
                except (aiohttp.ClientError, TimeoutError) as error:
                    logging.warning("the historian is not there (%s); trying again.", error)
                    await asyncio.sleep(_AGAIN_SECONDS)


def _base64(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


def main() -> None:
    """`python -m examples.mine.historian`."""
    parser = edge.arguments("Writes a line's rows and decisions to a PI historian.")
    parser.add_argument("--pi", required=True, metavar="URL", help="PI Web API, as https://HOST/piwebapi")
    parser.add_argument("--login", type=Path, required=True, help="file with user:password")
    given = parser.parse_args()

    async def both() -> None:
        hub = edge.Edge(given.connection, given.ca)
        async with asyncio.TaskGroup() as group:
            group.create_task(hub.run())
            group.create_task(work(given.line, hub, given.pi, given.login.read_text().strip()))

    edge.run(both)


if __name__ == "__main__":
    main()
