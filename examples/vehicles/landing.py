"""The job that lands what reached the cloud in the lake: every message once, however often it was sent.

Here the cloud's messages are the local hub's; with Azure, a consumer of the hub's Event Hub endpoint has the same two
things to go by, a sequence number and the sender's message id.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.anomaly.readings import WINDOW
from examples.vehicles import temperatures
from examples.vehicles.lake import TABLES, Lake, check, in_a_sentence
from modelsync_server.hub.messages import Arrived, Messages

_OUTPUTS = {("stage", "readings"): "readings", ("stage", "alarms"): "alarms", ("scoring", "answers"): "scores"}
_SECONDS = 0.5

Row = dict[str, Any]


def row(arrived: Arrived) -> tuple[str, Row]:
    """The table that a message belongs to, and its row; what can't be read goes into `rejected`, with the reason."""
    message = arrived.message
    sender, properties = message.sender, message.properties
    made: Row = {
        "id": f"{sender.device}/{sender.module}/{properties.get('$.mid') or arrived.seq}",
        "seq": arrived.seq,
        "time": datetime.fromisoformat(arrived.time).astimezone(UTC),
        "vehicle": sender.device,
        "bytes": len(message.body),
    }
    try:
        table = _OUTPUTS[sender.module or "", properties.get("$.on", "")]
        full = made | _VALUES[table](json.loads(message.body))
        check(table, full)
        number(sender.device)
        return table, full
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return "rejected", made | {"body": message.body, "why": f"{type(error).__name__}: {error!s:.200}"}


def _readings(body: Any) -> Row:
    readings = [[int(value) for value in sensor] for sensor in body["readings"]]
    if [len(sensor) for sensor in readings] != [WINDOW] * temperatures.SENSORS:
        raise ValueError("a window of other sensors or another length")
    if any(not -32768 <= value <= 32767 for sensor in readings for value in sensor):
        raise ValueError("a reading beyond 16 bits")
    if body["window"] < 1:
        raise ValueError("windows are counted from 1")
    return {"window": int(body["window"]), "readings": readings}


def _alarm(body: Any) -> Row:
    sensors, probability = [int(sensor) for sensor in body["sensors"]], [float(value) for value in body["probability"]]
    if not all(0 <= sensor < temperatures.SENSORS for sensor in sensors):
        raise ValueError("a sensor that no vehicle has")
    if not all(0 <= value <= 1 for value in probability):
        raise ValueError("a probability beyond 0 and 1")
    return {
        "window": int(body["window"]),
        "version": int(body["version"]),
        "sensors": sensors,
        "probability": probability,
    }


def _score(body: Any) -> Row:
    labels = body["outputs"]["label"]
    if not all(0 <= label <= 1 for label in labels):  # the mean of several messages may lie between
        raise ValueError("a label beyond 0 and 1")
    return {
        "version": int(body["version"]),
        "messages": int(body.get("mean_of", {}).get("messages", 1)),
        "share": sum(labels) / len(labels),
    }


_VALUES = {"readings": _readings, "alarms": _alarm, "scores": _score}


class Landing:
    """`step` lands what is new. Its state is the lake alone.

    It knows every id that is in the lake; one that runs for years would keep those of as many days as a vehicle may be
    away with an unacknowledged message.
    """

    def __init__(self, lake: Lake, hub_state: Path) -> None:
        self._lake, self._hub_state = lake, hub_state
        commits = lake.commits()
        self._number, self._upto = (commits[-1].number, commits[-1].upto) if commits else (0, 0)
        self._seen = {
            identity
            for table in TABLES
            if "id" in TABLES[table].names
            for identity in lake.read(table, ["id"], commits)["id"].to_pylist()
        }

    def step(self) -> int:
        """Land what has come since the last commit; how many messages that were."""
        with Messages(self._hub_state) as messages:
            arrived = messages.upstream(self._upto)
        if not arrived:
            return 0
        missed = arrived[0].seq - self._upto - 1
        if missed:
            logging.warning("%d messages were thrown away by the hub before they were read: land more often.", missed)
        tables, twice = self._sorted(arrived)
        commit = self._lake.append(
            tables | inspected(tables.get("readings", ())), self._number, arrived[-1].seq, twice=twice, missed=missed
        )
        self._number, self._upto = commit.number, commit.upto
        return len(arrived)

    def _sorted(self, arrived: Iterable[Arrived]) -> tuple[dict[str, list[Row]], int]:
        tables: dict[str, list[Row]] = {}
        twice = 0
        for each in arrived:
            table, made = row(each)
            if made["id"] in self._seen:
                twice += 1
                continue
            self._seen.add(made["id"])
            tables.setdefault(table, []).append(made)
        return tables, twice


def inspected(readings: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """What the workshop's system would add about these windows. Here it knows at once; a real one takes weeks."""
    found = [
        {
            "vehicle": each["vehicle"],
            "window": each["window"],
            "faulty": temperatures.faulty(number(each["vehicle"]), each["window"]).tolist(),
        }
        for each in readings
    ]
    return {"inspections": found} if found else {}


def number(vehicle: str) -> int:
    """The number in a vehicle's name."""
    return int(vehicle.rpartition("-")[2])


def main() -> None:
    """`python -m examples.vehicles.landing`, until SIGTERM."""
    parser = ArgumentParser(description="Lands the fleet's messages in the lake.")
    parser.add_argument("--hub-state", type=Path, required=True, help="the local hub's folder")
    parser.add_argument("--lake", type=Path, required=True, help="the lake's folder")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with in_a_sentence():
        landing = Landing(Lake(given.lake), given.hub_state)
        while not over.wait(_SECONDS):
            landing.step()


if __name__ == "__main__":
    main()
