"""What the confinement of ONNX workers costs: start-up, memory and latency with it and without, alternating in one run.

`python -m bench.confinement [--rounds N]`. With a number as its argument it is the zygote without confinement.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modelsync_inference.confinement import reader
from modelsync_inference.processes import zygote
from modelsync_inference.processes.process_model import ProcessModel
from modelsync_inference.processes.process_runtime import ProcessRuntime
from modelsync_inference.processes.spawner import Spawner
from modelsync_inference.runtimes.onnx_sessions import Choice
from tests.support.tiny_models import scaler

_RUNS = 2000


def main() -> None:
    """Print a line for each quantity: confined, unconfined, and what the first costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    found: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(scaler(3))
        spawners = {True: Spawner(), False: Spawner(program="bench.confinement")}
        runtimes = {on: ProcessRuntime(Choice(), 2, spawner=spawner) for on, spawner in spawners.items()}
        for each in range(rounds + 1):
            for on in (True, False) if each % 2 else (False, True):
                measured = _one(runtimes[on], path)
                if each:  # the first round starts the zygotes
                    found[on].append(measured)
        for spawner in spawners.values():
            spawner.close()
    for number, (what, unit) in enumerate((("start to ready", "ms"), ("private memory", "KiB"), ("latency", "µs"))):
        with_it, without = (statistics.median(entry[number] for entry in found[on]) for on in (True, False))
        print(f"{what}: {with_it:.1f} {unit} confined, {without:.1f} without; {(with_it / without - 1) * 100:+.1f} %")


def _one(runtime: ProcessRuntime, path: Path) -> tuple[float, float, float]:
    feeds = {"X": np.ones((1, 3), dtype=np.float32)}
    started = time.perf_counter()
    model = runtime.load(path)
    assert isinstance(model, ProcessModel)
    model.run(feeds, ["y"])
    model.settle()
    ready = time.perf_counter() - started
    latencies = []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        model.run(feeds, ["y"])
        latencies.append(time.perf_counter() - begun)
    private = sum(_private(model.pid))
    model.close()
    return ready * 1e3, private, statistics.median(latencies) * 1e6


def _private(pid: int) -> Iterator[int]:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            yield int(line.split()[1])


def _without(self: reader.Reader, *_: object, **__: object) -> list[str]:
    return []


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].isdigit():
        reader.Reader.close = _without  # type: ignore[method-assign]  # what is compared with
        reader.no_more_threads = lambda: None
        zygote.main()
    else:
        main()
