"""The vehicle's own service: samples, makes stage 1's means, has them scored, sends what is worth its bytes.

Of a window of every sensor go up: the readings (for training), and an alarm where the model finds a fault. A window is
counted as sent when edgeHub has it, and as scored when its answer is here; both survive a kill, so none is skipped. One
that was sent and not yet counted is sent again under the same id, and the lake takes it once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from examples.anomaly.readings import features
from examples.stories.edge import Edge, Json, run
from examples.vehicles.temperatures import Conditions, Readings, down_sample, sample

_ANSWER_SECONDS = 3.0
"""An answer that takes longer is asked for again: the scoring module was killed with the window in its queue."""

_HELD = 1000
"""Windows that wait for a model in memory."""


class Place:
    """The last window that was sent, and the last that was scored, in a file that survives a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sent = self.scored = 0
        try:
            found = json.loads(path.read_text())
            self.sent, self.scored = int(found["sent"]), int(found["scored"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            logging.warning("no usable place in %s; beginning with the first window.", path.name)

    def write(self) -> None:
        """Keep it."""
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps({"sent": self.sent, "scored": self.scored}))
        beside.replace(self._path)


class Stage:
    """`sample`, `score` and `listen` until cancelled. A window is made every `seconds`, which stand for 14 hours."""

    def __init__(self, vehicle: int, conditions: Path, place: Place, hub: Edge, seconds: float) -> None:
        self._vehicle, self._conditions, self._place = vehicle, conditions, place
        self._hub, self._seconds = hub, seconds
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._unscored: dict[int, Readings] = {}
        self._more = asyncio.Event()

    def _readings(self, window: int) -> Readings:
        """What is held of an unscored window; what a kill took away is in the sensors' own log."""
        if window not in self._unscored:
            measured = down_sample(sample(self._vehicle, window, Conditions.read(self._conditions)).samples)
            while len(self._unscored) >= _HELD:
                del self._unscored[next(iter(self._unscored))]
            self._unscored[window] = measured
        return self._unscored[window]

    async def sample(self) -> None:
        """Make windows, and send their readings up."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            window = self._place.sent + 1
            body = {"window": window, "readings": self._readings(window).tolist()}
            await self._hub.send("readings", body, f"readings-{window}")
            self._place.sent = window
            self._place.write()
            self._more.set()
            due = max(due + self._seconds, clock() - self._seconds)
            await asyncio.sleep(max(0.0, due - clock()))

    async def score(self) -> None:
        """Have each window scored, in order, and send an alarm where a fault was found."""
        while True:
            window = self._place.scored + 1
            while window > self._place.sent:
                self._more.clear()
                await self._more.wait()
            rows = np.round(features(self._readings(window) / 100.0), 4).tolist()
            answer = await self._answer(window, rows)
            labels, probabilities = answer["outputs"]["label"], answer["outputs"]["probabilities"]
            found = [sensor for sensor, label in enumerate(labels) if label == 1]
            if found:
                alarm = {
                    "window": window, "version": answer["version"], "sensors": found,
                    "probability": [round(probabilities[sensor][1], 3) for sensor in found],
                }  # fmt: skip
                await self._hub.send("alarms", alarm, f"alarm-{window}")
            self._unscored.pop(window, None)
            self._place.scored = window
            self._place.write()

    async def _answer(self, window: int, rows: list[list[float]]) -> Json:
        """Ask until there is an answer."""
        answered = self._answers[window] = asyncio.get_running_loop().create_future()
        try:
            while True:
                await self._hub.send("windows", {"X": rows}, f"window-{window}", window=str(window))
                done, _ = await asyncio.wait([answered], timeout=_ANSWER_SECONDS)
                if done:
                    found: Json = answered.result()
                    return found
        finally:
            del self._answers[window]

    async def listen(self) -> None:
        """Take answers; what nobody waits for any more came twice."""
        while True:
            source, message = await self._hub.inbox.get()
            if source == "errors":
                logging.warning("a window could not be scored: %s", message.get("error"))
                continue
            waiting = self._answers.get(int(message["properties"].get("window", 0)))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)


def main() -> None:
    """`python -m examples.vehicles.stage`."""
    parser = ArgumentParser(description="Samples a vehicle's temperatures.")
    parser.add_argument("--vehicle", type=int, required=True, help="its number")
    parser.add_argument(
        "--conditions", type=Path, required=True, help="file with the heat outside and the sensors' age"
    )
    parser.add_argument("--place", type=Path, required=True, help="file that says how far the windows have come")
    parser.add_argument("--seconds", type=float, required=True, help="seconds between two windows")
    parser.add_argument("--connection", type=Path, required=True, help="file with the module's connection string")
    parser.add_argument("--ca", type=Path, required=True, help="PEM of edgeHub's CA")
    given = parser.parse_args()

    async def work() -> None:
        hub = Edge(given.connection, given.ca)
        stage = Stage(given.vehicle, given.conditions, Place(given.place), hub, given.seconds)
        async with asyncio.TaskGroup() as group:
            for part in (hub.run(), stage.sample(), stage.score(), stage.listen()):
                group.create_task(part)

    run(work)


if __name__ == "__main__":
    main()
