"""The camera module: takes frames, has each scored by one of the node's pods, and writes down what it was called.

Each frame has a number and gets exactly one line. A pod that does not answer is passed over for the next; a frame waits
for an answer rather than go without, and a camera that was killed goes on with the frame after its last line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from examples.camera.frames import Seen, Source, open_source
from examples.camera.labels import Labels
from examples.camera.tensors import tensor

_WAITING = 256
"""Frames that may wait: of a live camera the oldest then makes room, and is written down as lost."""

_DATATYPES = {"FP32": "<f4", "FP16": "<f2", "UINT8": "u1"}
_ANSWER_SECONDS, _AGAIN_SECONDS = 5.0, 0.2
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Signature:
    """What the model that a pod serves takes and gives."""

    inputs: str
    datatype: str
    shape: tuple[int, ...]
    output: str


class Scoring:
    """The node's scoring pods, asked in turn."""

    def __init__(self, urls: Sequence[str], model: str, session: aiohttp.ClientSession) -> None:
        self._urls, self._model, self._session = list(urls), model, session
        self._signatures: dict[str, Signature] = {}
        self._turn = 0

    async def shares(self, seen: Seen) -> tuple[list[float], int, int, int]:
        """(shares, version, number of the pod, how many were asked) for a frame; it waits until one answers."""
        asked = 0
        while True:
            number = self._turn % len(self._urls)
            self._turn += 1
            asked += 1
            try:
                shares, version = await self._ask(self._urls[number], seen)
                return shares, version, number, asked
            except _AWAY as error:
                why = f"does not answer ({type(error).__name__})"
            except aiohttp.ClientResponseError as error:
                why = f"says {error.status} {error.message}"
            if asked <= len(self._urls):  # not each time: a disk would be full of it
                logging.warning("frame %d: pod %d %s.", seen.number, number, why)
            if asked % len(self._urls) == 0:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _ask(self, url: str, seen: Seen) -> tuple[list[float], int]:
        base = f"{url}/v2/models/{self._model}"
        assert seen.frame is not None
        signature = self._signatures.get(url) or await self._signature(url, base)
        row = tensor(seen.frame, signature.shape).astype(_DATATYPES[signature.datatype])
        binary = {"binary_data_size": row.nbytes}
        said: dict[str, Any] = {
            "inputs": [
                {
                    "name": signature.inputs, "datatype": signature.datatype, "shape": list(row.shape),
                    "parameters": binary,
                }
            ],
            "outputs": [{"name": signature.output}],
        }  # fmt: skip
        head = json.dumps(said, separators=(",", ":")).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        try:
            async with self._session.post(f"{base}/infer", data=head + row.tobytes(), headers=headers) as answer:
                document = await answer.json()
        except aiohttp.ClientResponseError:
            self._signatures.pop(url, None)  # a new version may have other tensors: it is asked what it takes
            raise
        shares = document["outputs"][0]["data"]  # JSON has no NaN: it comes as null
        return [math.nan if value is None else float(value) for value in shares], int(document["model_version"])

    async def _signature(self, url: str, base: str) -> Signature:
        async with self._session.get(base) as answer:
            document = await answer.json()
        taken = document["inputs"][0]
        if taken["datatype"] not in _DATATYPES:
            raise ValueError(f"the model takes {taken['datatype']}, and pictures are {', '.join(_DATATYPES)}.")
        shape = tuple(taken["shape"])
        found = Signature(taken["name"], taken["datatype"], shape, document["outputs"][0]["name"])
        self._signatures[url] = found
        return found


class Results:
    """A line of JSON for each frame, in their order."""

    def __init__(self, path: Path) -> None:
        """Opens it, and cuts off a last line that is not whole, which a kill leaves."""
        path.touch()
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        self._file = path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        lines = data[:whole].splitlines()
        self.last = int(json.loads(lines[-1])["frame"]) if lines else 0

    def write(self, line: dict[str, Any]) -> None:
        """It is with the operating system when this returns: a killed camera loses nothing that it wrote."""
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


async def grab(source: Source, first: int, rate: float, waiting: asyncio.Queue[Seen], results: Results) -> None:
    """Put frames into the queue, `rate` a second."""
    frames, due = source.frames(first), time.monotonic()
    while (seen := await asyncio.to_thread(next, frames, None)) is not None:
        if source.live and waiting.full():
            lost = waiting.get_nowait()
            waiting.task_done()
            results.write({"frame": lost.number, "name": lost.name, "lost": "scoring is slower than the camera"})
        await waiting.put(seen)
        due = max(due + 1 / rate, time.monotonic() - 1)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await waiting.join()
    raise EOFError


async def label(waiting: asyncio.Queue[Seen], scoring: Scoring, labels: Labels, results: Results) -> None:
    """Have the queue's frames scored and named, one after the other."""
    while True:
        seen = await waiting.get()
        if seen.frame is None:
            logging.warning("frame %d (%s): %s.", seen.number, seen.name, seen.lost)
            results.write({"frame": seen.number, "name": seen.name, "lost": seen.lost})
            waiting.task_done()
            continue
        shares, version, pod, asked = await scoring.shares(seen)
        line: dict[str, Any] = {"frame": seen.number, "name": seen.name, "version": version, "pod": pod, "asked": asked}
        try:
            line["label"], sure = labels.name(version, shares)
            line["sure"] = round(sure, 4)
        except LookupError as error:
            line["label"], line["why"] = None, str(error)
            logging.warning("frame %d has no name: %s.", seen.number, error)
        results.write(line | {"t": round(time.time(), 3)})
        waiting.task_done()


async def run(given: argparse.Namespace) -> None:
    """Until SIGTERM, or the end of a film."""
    source, results = open_source(given.source), Results(given.results)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    waiting: asyncio.Queue[Seen] = asyncio.Queue(_WAITING if source.live else 4)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session, asyncio.TaskGroup() as group:
        scoring = Scoring(given.scoring, given.model, session)
        group.create_task(grab(source, results.last + 1, given.rate, waiting, results))
        group.create_task(label(waiting, scoring, Labels(given.data, given.model), results))


def _rate(text: str) -> float:
    found = float(text)
    if not 0 < found < 1000:
        raise argparse.ArgumentTypeError("a rate is more than 0 frames a second")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Has frames scored and writes down what they show.")
    parser.add_argument("--source", required=True, help="a folder of pictures, or a camera such as /dev/video0")
    parser.add_argument("--rate", type=_rate, default=10.0, help="frames a second")
    parser.add_argument("--scoring", action="append", required=True, metavar="URL", help="a scoring pod; repeatable")
    parser.add_argument("--data", type=Path, required=True, help="the node's data directory; read only")
    parser.add_argument("--model", required=True)
    parser.add_argument("--results", type=Path, required=True, help="a line of JSON for each frame")
    return parser


def main() -> int:
    """`python -m examples.camera.camera`."""
    given = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    code, said = 0, ""
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run(given))
    except* EOFError:
        pass
    except* ValueError as error:
        code, said = 2, str(error.exceptions[0])
    except* OSError as error:
        code, said = 4, str(error.exceptions[0])
    if said:
        print(f"camera: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
