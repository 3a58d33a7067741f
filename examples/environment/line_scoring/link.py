"""The line to the daemon's Unix socket (docs/interfaces.md §3) in the standard library alone, for any application.

Registers this process, says what is installed in its environment, loads candidates, takes what the pointer names.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import model

_HEARTBEAT_SECONDS = 5.0
Json = dict[str, Any]


class Link:
    """`take(version, folder)` loads a version and serves it, or raises; `packages()` says what is installed."""

    def __init__(
        self, data: Path, name: str, take: Callable[[int, Path], None], packages: Callable[[], dict[str, str]]
    ) -> None:
        self._data, self._name, self._take, self._packages = data, name, take, packages
        self._folder = data / "models" / name
        self._reports: dict[str, Json] = {}
        self._served, self._asked = 0, 0
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Look at the pointers: load a candidate to try it, serve what is current, or else what was before."""
        with self._lock:
            candidate, current = self._pointer("candidate"), self._pointer("current")
            if candidate is not None and candidate["generation"] != self._asked:
                self._asked = candidate["generation"]
                self._try("candidate", candidate, "ready", _probe)
            if candidate is None:
                self._reports.pop("candidate", None)
            if current is not None and current["generation"] != self._served:
                self._served = current["generation"]
                number = current["version"]
                if not self._try("current", current, "serving", lambda folder: self._take(number, folder)):
                    previous = current.get("previous")
                    if previous:
                        with contextlib.suppress(Exception):
                            self._take(previous["version"], self._folder / previous["path"])

    def run(self) -> None:
        """Stay connected to the daemon for ever; it may come and go."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._talk()
            time.sleep(0.5)
            self.follow()

    def _try(self, pointer: str, named: Json, good: str, how: Callable[[Path], None]) -> bool:
        report = {
            "pid": os.getpid(), "pointer": pointer, "generation": named["generation"], "version": named["version"],
            "digest": named["digest"], "state": good, "reason": "", "load_ms": 0, "probe_ms": 0, "requests": 0,
            "errors": 0, "run_us": 0, "rss_bytes": 0, "trial": None, "restarts": 0, "ended": "",
        }  # fmt: skip
        began = time.monotonic()
        try:
            how(self._folder / named["path"])
        except Exception as error:
            report |= {"state": "refused", "reason": f"{type(error).__name__}: {error}"[:200]}
        report["load_ms"] = int(1000 * (time.monotonic() - began))
        self._reports[pointer] = report
        return bool(report["state"] == good)

    def _pointer(self, kind: str) -> Json | None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self._folder / f"{kind}.json").read_bytes())
            if isinstance(found, dict):
                return found
        return None

    def _talk(self) -> None:
        """One connection's life: what is installed here first, then reports after each hint and each heartbeat."""
        watch = _Unix(self._data / "daemon.sock", 60)
        watch.request("GET", f"/v1/models/{self._name}/watch?pid={os.getpid()}")
        stream = watch.getresponse()
        python, machine = platform.python_version(), platform.machine()
        self._post("environment", {
            "pid": os.getpid(), "python": python, "arch": machine, "packages": self._packages(), "complete": True,
        })  # fmt: skip
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beat.start()
        try:
            while line := stream.readline():
                if b"keepalive" not in line:
                    self.follow()
                    self._say()
        finally:
            ended.set()
            watch.close()

    def _beat(self, ended: threading.Event) -> None:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.follow()
                self._say()
            if ended.wait(_HEARTBEAT_SECONDS):
                return

    def _say(self) -> None:
        for report in list(self._reports.values()):
            self._post("report", report)

    def _post(self, what: str, document: Json) -> None:
        connection = _Unix(self._data / "daemon.sock", 10)
        try:
            body = json.dumps(document)
            connection.request("POST", f"/v1/models/{self._name}/{what}", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        finally:
            connection.close()


def _probe(folder: Path) -> None:
    """Load a candidate and have it answer once; what it holds goes again."""
    model.predict(model.load(folder), [[0.0] * model.SENSORS])


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket, whose path may be longer than an address has room for."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("daemon", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)
