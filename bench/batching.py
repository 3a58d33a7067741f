"""What dynamic batching gives: answers a second at saturation and their latency, with it and without it, in one run.

`python -m bench.batching [--in-flight N,…] [--rounds N] [--seconds S]` prints a table. The load is tritonclient's, a
closed loop of N requests of one row each; with and without take turns, and each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.http.aio as triton

from bench.swap_models import MODELS, cnn, large
from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess

_OPTIONS = ("--log-level", "error", "--workers", "2")
_BATCHED = ("--max-batch-size", "32")
_PROBE = {"format": 1, "cases": [], "tolerance": {"absolute": "0.0001", "relative": "0.0001"}}


async def measure(address: str, shape: tuple[int, ...], in_flight: int, seconds: float) -> tuple[float, float]:
    """Answers a second, and the 99th percentile of their latency, milliseconds."""
    tensor = triton.InferInput("X", list(shape), "FP32")
    tensor.set_data_from_numpy(np.ones(shape, dtype=np.float32))
    latencies: list[float] = []
    async with triton.InferenceServerClient(address, conn_limit=in_flight) as client:
        await client.infer("anomaly", [tensor])
        end = time.monotonic() + seconds

        async def again() -> None:
            while (begin := time.monotonic()) < end:
                await client.infer("anomaly", [tensor])
                latencies.append((time.monotonic() - begin) * 1000)

        await asyncio.gather(*(again() for _ in range(in_flight)))
    return len(latencies) / seconds, float(np.percentile(latencies, 99))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.batching")
    parser.add_argument("--kind", choices=MODELS, default="cnn", help="small CNN, or 94 MB of matrices")
    parser.add_argument("--in-flight", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    sys.stdout.write(
        "| requests in flight | answers/s alone | answers/s batched | ratio | p99 ms alone | p99 ms batched |\n"
        "|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory(prefix="modelsync-batching-") as root:
        data = DataDir(Path(root))
        model = cnn(1, proof=False) if arguments.kind == "cnn" else large(1, proof=False)
        data.point("current", data.install(1, {"model.onnx": model}, _PROBE), 1)
        with InferProcess(data.root, *_OPTIONS) as alone, InferProcess(data.root, *_OPTIONS, *_BATCHED) as batched:
            time.sleep(2)  # both have their version
            for in_flight in (int(number) for number in arguments.in_flight.split(",")):
                rounds = [
                    [
                        asyncio.run(measure(server.address, MODELS[arguments.kind][1], in_flight, arguments.seconds))
                        for server in (alone, batched)
                    ]
                    for _ in range(arguments.rounds)
                ]
                (a, a99), (b, b99) = (
                    [statistics.median(each[way][what] for each in rounds) for what in (0, 1)] for way in (0, 1)
                )
                sys.stdout.write(f"| {in_flight} | {a:.0f} | {b:.0f} | x{b / a:.2f} | {a99:.1f} | {b99:.1f} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
