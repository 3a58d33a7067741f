"""How long the old version does not answer when a swap goes wrong, and what the daemon is told.

`python -m bench.swap_faults` runs a real server against a recording daemon's socket and prints a table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here

from tests.support.datadir import DataDir, Installed
from tests.support.deadly_models import crashes_while_loading, divider, looper
from tests.support.fake_daemon import FakeDaemon
from tests.support.infer_process import InferProcess

_FOR_EVER = 2**62
_OPTIONS = ("--load-seconds", "5", "--run-seconds", "1", "--log-level", "error")


def probe(x: int) -> dict[str, Any]:
    """One case that only has to run."""
    return {"format": 1, "cases": [{"inputs": {"X": {"shape": [1], "datatype": "INT64", "data": [x]}}}]}


def ask(url: str, x: int = 1) -> str | None:
    """The version that answered; None if none did."""
    body = {"inputs": [{"name": "X", "shape": [1], "datatype": "INT64", "data": [x]}]}
    request = urllib.request.Request(f"{url}/v2/models/anomaly/infer", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(json.load(response)["model_version"])
    except (urllib.error.URLError, OSError):
        return None


class Scene:
    """A server that serves version 7, and the socket of a daemon that records."""

    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.good = self.data.install(7, {"model.onnx": divider(7)}, probe(1))
        self.data.point("current", self.good, 1)
        self.daemon = FakeDaemon(root).start()
        self.server = InferProcess(root, *_OPTIONS)
        while ask(self.server.url) is None:
            time.sleep(0.02)

    def install(self, model: bytes, x: int = 1) -> Installed:
        """A version 8."""
        return self.data.install(8, {"model.onnx": model}, probe(x))

    def switch(self, version: Installed) -> None:
        """Point at it."""
        self.data.point("current", version, 2, self.good)

    def serving(self) -> psutil.Process:
        """The process that answers; workers have no network socket."""
        children = psutil.Process(self.server.process.pid).children()
        return next(child for child in children if child.net_connections("tcp"))

    def until(self, version: str) -> None:
        """Ask until it answers."""
        while ask(self.server.url) != version:
            time.sleep(0.005)

    def end(self) -> None:
        """Stop everything."""
        self.server.stop()
        self.daemon.stop()


def _killed_server(scene: Scene) -> float:
    scene.switch(scene.install(divider(8)))
    begin = time.monotonic()
    scene.serving().kill()
    while ask(scene.server.url) is None:
        pass
    return time.monotonic() - begin


def _killed_worker(scene: Scene) -> float:
    scene.switch(scene.install(divider(8)))
    serving = scene.serving()
    workers = [child for child in psutil.Process(scene.server.process.pid).children() if child != serving]
    begin = time.monotonic()
    for worker in workers:
        worker.kill()
    while ask(scene.server.url) is None:
        pass
    return time.monotonic() - begin


def _refused(model: Callable[[], bytes], x: int) -> Callable[[Scene], float]:
    def act(scene: Scene) -> float:
        """The longest that version 7 was not heard of until the refusal."""
        scene.switch(scene.install(model(), x))
        longest, last = 0.0, time.monotonic()
        while not any(report["state"] == "refused" for report in scene.daemon.reports):
            if ask(scene.server.url) == "7":
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    return act


def _deadly_request(model: Callable[[], bytes], x: int) -> Callable[[Scene], float]:
    def act(scene: Scene) -> float:
        scene.switch(scene.install(model()))
        scene.until("8")
        begin = time.monotonic()
        ask(scene.server.url, x)
        scene.until("7")
        return time.monotonic() - begin

    return act


def _garbage(scene: Scene) -> float:
    scene.data.write_pointer("current", b"\0garbage")
    begin = time.monotonic()
    scene.until("7")
    return time.monotonic() - begin


FAULTS: dict[str, Callable[[Scene], float]] = {
    "kill -9 of the serving process in mid-swap": _killed_server,
    "kill -9 of every worker process in mid-swap": _killed_worker,
    "a model that crashes its runtime while it loads": _refused(crashes_while_loading, 1),
    "a probe that takes for ever (given up after 5 s)": _refused(looper, _FOR_EVER),
    "a request that crashes the new version": _deadly_request(lambda: divider(8), 0),
    "a request that the new version never answers": _deadly_request(looper, _FOR_EVER),
    "a pointer file with garbage in it": _garbage,
}


def _told(daemon: FakeDaemon) -> str:
    bad = [report for report in daemon.reports if report["state"] in ("refused", "failed")]
    if bad:
        return f"{bad[-1]['state']}: {bad[-1]['reason']}"
    again = [report for report in daemon.reports if report["restarts"]]
    return f"the process before {again[-1]['ended']}" if again else "nothing: what serves goes on"


def main() -> None:
    """Run them all."""
    sys.stdout.write(
        "| fault | seconds until an answer by a good version | what the daemon was told |\n|---|---|---|\n"
    )
    for name, act in FAULTS.items():
        with tempfile.TemporaryDirectory(prefix="modelsync-faults-") as root:
            scene = Scene(Path(root))
            try:
                seconds = act(scene)
                time.sleep(0.3)
                reason = _told(scene.daemon)
                sys.stdout.write(f"| {name} | {seconds:.2f} | {reason} |\n")
                sys.stdout.flush()
            finally:
                scene.end()


if __name__ == "__main__":
    main()
