"""The load of the swap benchmark: an open loop of tritonclient requests, in a process of its own.

`python -m bench.swap_load URL SHAPE RATE OUT` sends at RATE a second until its standard input closes and writes an
array of rows to OUT: scheduled, sent, answered (monotonic seconds), version, and 1 good, 2 told to come back later
(503), 0 failed otherwise or -1 wrong version. With RATE 0 it keeps eight requests in flight for three seconds instead
and prints how many a second came back: the saturation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

_MODEL = "bench"
_IN_FLIGHT = 8
_SATURATION_SECONDS = 3.0
_MAX_OPEN = 2000
GOOD, BUSY, FAILED, WRONG = 1, 2, 0, -1

Row = tuple[float, float, float, int, int]


async def main() -> None:
    """See the module."""
    address, shape, rate, out = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    image = (np.arange(np.prod(shape), dtype=np.float32) % 7 / 7).reshape(shape)
    tensor = triton.InferInput("X", shape, "FP32")
    tensor.set_data_from_numpy(image, binary_data=True)
    wanted = [triton.InferRequestedOutput("y"), triton.InferRequestedOutput("proof")]
    async with triton.InferenceServerClient(address, conn_limit=256, conn_timeout=30) as client:

        async def ask(scheduled: float) -> Row:
            sent = time.monotonic()
            try:
                result = await client.infer(_MODEL, [tensor], outputs=wanted)
            except Exception as error:  # whatever it is, it is a failed request, which is what is counted
                status = error.status() if isinstance(error, InferenceServerException) else None
                return scheduled, sent, time.monotonic(), 0, BUSY if status == "503" else FAILED
            version = int(result.get_response()["model_version"])
            right = int(result.as_numpy("proof").ravel()[0]) == version
            return scheduled, sent, time.monotonic(), version, GOOD if right else WRONG

        if rate == 0:
            sys.stdout.write(f"{await _saturate(ask)}\n")
        else:
            rows = await _open_loop(ask, 1 / rate)
            await asyncio.to_thread(np.save, Path(out), np.array(rows))


async def _saturate(ask: Any) -> float:
    end, count = time.monotonic() + _SATURATION_SECONDS, 0

    async def again() -> None:
        nonlocal count
        while time.monotonic() < end:
            count += (await ask(0.0))[4] == GOOD

    await asyncio.gather(*(again() for _ in range(_IN_FLIGHT)))
    return count / _SATURATION_SECONDS


async def _open_loop(ask: Any, interval: float) -> list[Row]:
    closed = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    rows: list[Row] = []
    tasks: set[asyncio.Task[Row]] = set()
    due = time.monotonic()
    while not closed.done():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if len(tasks) < _MAX_OPEN:
            task = asyncio.ensure_future(ask(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda done: rows.append(done.result()))
        else:
            rows.append((due, due, due, 0, FAILED))
        due += interval
    await asyncio.gather(*tasks)
    return rows


if __name__ == "__main__":
    asyncio.run(main())
