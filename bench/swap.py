"""What a swap under load costs: latency, failures, memory; beside a plain restart and a naive reload.

`python -m bench.swap [--swaps N] [--large-swaps N] [--period S] [--minutes M] [--out FILE]` prints a table and a
verdict on each target, and writes a JSON document. With the defaults it takes about 40 minutes; after M minutes no swap
is begun. The load is tritonclient's, open-loop at half of the measured saturation; latency counts from the scheduled
send; a swap's window is from the pointer's replacement to one second after both the first answer by the new version and
the last by the old one. Versions of the large model are laid out for mapping anew at every swap, as a device has it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # it has no types and is only read here

from bench.family_memory import resident
from bench.swap_load import BUSY, FAILED, GOOD, WRONG
from bench.swap_models import MODELS, probe
from bench.swap_table import HEAD, row, verdicts
from tests.support.datadir import DataDir, Installed

_NAME = "bench"
_VERSIONS = {"cnn": 8, "large": 3}
_INFER = Path(sys.executable).with_name("modelsync-infer")
_AFTER_SECONDS = 1.0
_STEADY_SECONDS = 15.0
"""Before the swaps, and again after them."""
_MIB = 1 << 20


@dataclass
class Server:
    """A server process on a port of its own; `restart` is the plain way to another version."""

    data: DataDir
    arguments: list[str]
    naive: bool = False
    port: int = field(default=0)

    def __enter__(self) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        command = [sys.executable, "-m", "bench.swap_naive", str(self.data.root)]
        if not self.naive:
            command = [str(_INFER), "--data", str(self.data.root), "--model", _NAME, "--log-level", "error"]
            command += ["--port", str(self.port), *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def _stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def restart(self) -> None:
        """Stop and start."""
        self._stop()
        self._start()

    def wait_ready(self) -> None:
        """Until a version serves."""
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/v2/health/ready").close()
                return
            except urllib.error.URLError:
                time.sleep(0.02)

    def memory(self) -> int:
        """Bytes resident, with children; what several of them share counts once."""
        process = psutil.Process(self.process.pid)
        while True:
            before = {process, *process.children(recursive=True)}
            try:
                total = resident([one.pid for one in before])
            except (OSError, psutil.Error):
                continue
            # A process that came or went in between would be counted twice or not at all.
            if before == {process, *process.children(recursive=True)}:
                return total


@dataclass(frozen=True, slots=True)
class Plan:
    """How many swaps, seconds from one to the next, whether by a restart, and when to stop (monotonic seconds)."""

    swaps: int
    period: float
    deadline: float
    restart: bool = False


def install(root: Path, kind: str) -> tuple[DataDir, list[Installed]]:
    """A data directory with the benchmark's versions."""
    maker, shape = MODELS[kind]
    data = DataDir(root, _NAME)
    versions = []
    for version in range(1, _VERSIONS[kind] + 1):
        model = maker(version)
        (root / "recorded.onnx").write_bytes(model)
        versions.append(data.install(version, {"model.onnx": model}, probe(root / "recorded.onnx", shape)))
    (root / "recorded.onnx").unlink()
    return data, versions


class Load:
    """The generator, while `with` lasts; `rows` afterwards."""

    def __init__(self, server: Server, kind: str, rate: float, out: Path) -> None:
        self._command = _load_command(server, kind, rate, out)
        self._out = out
        self.rows: np.ndarray[Any, Any] = np.empty((0, 5))

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        time.sleep(2)  # its imports
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        rows = np.load(self._out)
        self.rows = rows[np.argsort(rows[:, 0])]


def _load_command(server: Server, kind: str, rate: float, out: Path) -> list[str]:
    address = server.url.removeprefix("http://")
    return [sys.executable, "-m", "bench.swap_load", address, json.dumps(MODELS[kind][1]), str(rate), str(out)]


def saturation(server: Server, kind: str) -> float:
    """Answers a second with eight requests in flight."""
    command = _load_command(server, kind, 0, Path("-"))
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def percentiles(rows: np.ndarray[Any, Any]) -> dict[str, float]:
    """Latency in milliseconds of the good answers, from the scheduled send."""
    good = rows[rows[:, 4] == GOOD]
    if not len(good):
        return {"p50": float("nan"), "p99": float("nan"), "p999": float("nan"), "max": float("nan")}
    latency = (good[:, 2] - good[:, 0]) * 1000
    p50, p99, p999 = np.percentile(latency, [50, 99, 99.9])
    return {"p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(latency.max())}


def measure(server: Server, kind: str, versions: list[Installed], plan: Plan, rate: float) -> dict[str, Any]:
    """Steady load before and after `plan`'s swaps under it; memory is read after ten and after all of them."""
    turns = itertools.cycle(versions[1:] + versions[:1])
    generation = 1
    old = versions[0]
    written: list[tuple[float, int, int]] = []

    def swap() -> None:
        nonlocal generation, old
        new = next(turns)
        if kind == "large":
            _forget_layout(server.data, new)
        generation += 1
        written.append((time.monotonic(), old.version, new.version))
        server.data.point("current", new, generation, old)
        old = new
        if plan.restart:
            server.restart()

    steady = _steady(server, kind, rate)
    after_ten = 0
    with tempfile.TemporaryDirectory() as scratch, Load(server, kind, rate, Path(scratch) / "swaps.npy") as load:
        for number in range(plan.swaps):
            begin = time.monotonic()
            if begin > plan.deadline and number:
                break
            swap()
            time.sleep(max(0.0, begin + plan.period - time.monotonic()))
            if number == 9:
                after_ten = server.memory()
        time.sleep(2)
        # While the generator runs, as ten swaps after: what it shares with the server counts half in either.
        after_all, done = server.memory(), len(written)
    steady = np.concatenate([steady, _steady(server, kind, rate)])
    peak, before = (0, 0) if plan.restart else _peak(server, swap)
    return {
        "rate": rate,
        "asked": plan.swaps,
        "model_mib": sum(file.stat().st_size for file in (server.data.folder / old.path).rglob("*.onnx")) / _MIB,
        "steady": percentiles(steady),
        **_windows(load.rows, written[:done]),
        "memory_mib": {
            "after_10": after_ten / _MIB,
            "after_all": after_all / _MIB,
            "steady": before / _MIB,
            "peak_in_swap": peak / _MIB,
        },
    }


def _steady(server: Server, kind: str, rate: float) -> np.ndarray[Any, Any]:
    """Rows of a load without swaps, without its first second."""
    with tempfile.TemporaryDirectory() as scratch:
        with Load(server, kind, rate, Path(scratch) / "steady.npy") as load:
            time.sleep(_STEADY_SECONDS)
        rows: np.ndarray[Any, Any] = load.rows[load.rows[:, 0] > load.rows[0, 0] + 1]
        return rows


def _forget_layout(data: DataDir, version: Installed) -> None:
    for source in (data.root / "inference" / _NAME).glob("*/source"):
        if version.path in source.read_text():
            shutil.rmtree(source.parent)


def _windows(rows: np.ndarray[Any, Any], written: list[tuple[float, int, int]]) -> dict[str, Any]:
    """What happened in the windows of the swaps. A good answer after the switch by the old version is a wrong one."""
    inside = np.zeros(len(rows), dtype=bool)
    first_answers, wrong = [], int((rows[:, 4] == WRONG).sum())
    for number, (start, old, new) in enumerate(written):
        end, following = (*written[number + 1][::2],) if number + 1 < len(written) else (start + 30, new)
        good = (rows[:, 4] == GOOD) & (rows[:, 1] >= start) & (rows[:, 1] < end)
        answers = rows[(rows[:, 4] == GOOD) & (rows[:, 3] == new) & (rows[:, 2] >= start) & (rows[:, 1] < end)]
        if not len(answers):
            inside |= (rows[:, 0] >= start) & (rows[:, 0] < end)
            continue
        first = float(answers[:, 2].min())
        first_answers.append((first - start) * 1000)
        late = rows[(rows[:, 3] == old) & (rows[:, 2] >= start) & (rows[:, 1] < end)]
        drained = max(first, float(late[:, 2].max()) if len(late) else first)
        sent, version = rows[good][:, 1], rows[good][:, 3]
        allowed = (version == new) | (version == following) | ((version == old) & (sent <= first))
        wrong += int((~allowed).sum())
        inside |= (rows[:, 2] >= start) & (rows[:, 0] <= drained + _AFTER_SECONDS)
    return {
        "swaps": len(written),
        "swaps_seen": len(first_answers),
        "requests": len(rows),
        "failed": int((rows[:, 4] == FAILED).sum()),
        "busy": int((rows[:, 4] == BUSY).sum()),
        "wrong_version": wrong,
        "window_requests": int(inside.sum()),
        "window": percentiles(rows[inside]),
        "first_answer_ms": {
            "p50": float(np.percentile(first_answers, 50)) if first_answers else float("nan"),
            "p99": float(np.percentile(first_answers, 99)) if first_answers else float("nan"),
            "max": max(first_answers, default=float("nan")),
        },
    }


def _peak(server: Server, swap: Callable[[], None]) -> tuple[int, int]:
    """The highest memory in five swaps and the median before them; apart, because sampling costs latency."""
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.002):
            samples.append(server.memory())

    before = sorted(server.memory() for _ in range(5))[2]
    thread = threading.Thread(target=sample)
    thread.start()
    for _ in range(5):
        swap()
        time.sleep(2)
    stop.set()
    thread.join()
    return max(samples), before


def ways(kind: str) -> dict[str, tuple[list[str], bool, bool]]:
    """Arguments, whether it is the naive server, whether it is restarted; by the name in the table."""
    found = {
        "modelsync": (["--isolation", "process", "--policy", "availability"], False, False),
        "modelsync, in threads": (["--isolation", "thread", "--policy", "availability"], False, False),
        "modelsync, resource policy": (["--isolation", "process", "--policy", "resource"], False, False),
        "naive reload": ([], True, False),
        "plain restart": (["--isolation", "thread"], False, True),
    }
    if kind == "large":
        found["modelsync, prepacking and arena on"] = (
            ["--policy", "availability", "--prepack", "on", "--arena", "on"],
            False,
            False,
        )
    return found


def run(kind: str, swaps: int, few: int, period: float, only: str, deadline: float) -> dict[str, Any]:
    """All ways with one model; `few` swaps for the ways that are only there to compare."""
    results: dict[str, Any] = {}
    rate = 0.0
    for way, (arguments, naive, restart) in ways(kind).items():
        if only not in way:
            continue
        with tempfile.TemporaryDirectory(prefix="modelsync-swap-") as root:
            data, versions = install(Path(root), kind)
            data.point("current", versions[0], 1)
            with Server(data, arguments, naive) as server:
                saturated = saturation(server, kind)
                rate = rate or saturated / 2  # the same load for all
                count = swaps if way == "modelsync" else few
                plan = Plan(count, max(period, 3.0) if restart else period, deadline, restart)
                results[way] = {"saturation": saturated, **measure(server, kind, versions, plan, rate)}
        sys.stderr.write(f"{row(way, results[way])}\n")
    return results


def main() -> None:
    """Run both models and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.swap")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--large-swaps", type=int, default=100)
    parser.add_argument("--few", type=int, default=30, help="swaps of the ways that are there to compare")
    parser.add_argument("--period", type=float, default=1.2, help="seconds from swap to swap; windows are 1 s and more")
    parser.add_argument("--minutes", type=float, default=45, help="when to stop")
    parser.add_argument("--kind", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--only", default="", help="part of a way's name")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    begin, results = time.monotonic(), dict[str, Any]()
    plans = {
        # The large model first, and two thirds of the time for the thousand swaps of the small one.
        "large": (arguments.large_swaps, max(arguments.period, 2.5), begin + 20 * arguments.minutes),
        "cnn": (arguments.swaps, arguments.period, begin + 60 * arguments.minutes),
    }
    for kind, (swaps, period, deadline) in plans.items():
        if arguments.kind in (kind, "both"):
            results[kind] = run(kind, swaps, arguments.few, period, arguments.only, deadline)
            table = "\n".join(row(way, result) for way, result in results[kind].items())
            sys.stdout.write(f"\n{kind}\n\n{HEAD}\n{table}\n")
            sys.stdout.flush()
    judged = verdicts(results)
    sys.stdout.write("\n" + "".join(f"- {line}\n" for line in judged))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({**results, "verdicts": judged}, indent=1) + "\n")


if __name__ == "__main__":
    main()
