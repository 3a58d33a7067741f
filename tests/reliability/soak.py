"""A soak: a real daemon and a real `modelsync-infer` on one small disk, one update after another, and seeded faults.

The twin asks for a newer version as soon as one serves. A client asks for inferences all the time. What processes and
the disk hold is looked at after each update, so that growth would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types and is only read here

from bench.family_memory import resident
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.local import socket_client
from modelsync_daemon.local.socket_client import NoDaemon
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.hub.hub import Hub, HubAddress
from tests.daemon.fakes import NAME
from tests.support import tiny_models
from tests.support.infer_process import InferProcess
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

_COMMAND = Path(sys.executable).with_name("modelsyncd")
_PAUSE = 0.05
"""Seconds between two inferences."""

_PATIENCE = 120.0
"""Seconds an update may take, faults included; a soak that hangs is to end."""

_KEPT_FREE = 16 * 1024
"""Bytes that a full disk still has: a full disk of a device is seldom full to the last byte."""


@dataclass(slots=True)
class Client:
    """Asks all the time, in a thread. `failed` holds one text a failure; a 503 is a failure too."""

    address: str
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    newest: int = 0
    published: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._ask_on)
        self._thread.start()

    def stop(self) -> None:
        """End, after the answer that is awaited."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        while not self._stop.wait(_PAUSE):
            try:
                self._ask(connection)
                self.answers += 1
            except (AssertionError, OSError, ValueError, KeyError, http.client.HTTPException) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        tensor = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}
        connection.request("POST", f"/v2/models/{NAME}/infer", json.dumps({"inputs": [tensor]}))
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, f"{response.status} {body[:200]!r}"
        document = json.loads(body)
        version = int(document["model_version"])
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        assert outputs["tag"] == [version], f"the answer of version {version} is by {outputs['tag']}"
        assert outputs["y"] == [version, 2.0 * version, 3.0 * version], f"version {version} answers {outputs['y']}"
        assert version <= self.published, f"version {version} was never published"
        assert version >= self.newest, f"version {version} answers after {self.newest}"
        self.newest = version


@dataclass(frozen=True, slots=True)
class Sample:
    """What is held after one update. `life`: which of the daemon's processes, counted from 0; kibibytes."""

    life: int
    figures: Mapping[str, float]


class Soak:
    """One device; `run` updates it. Make it with `soaking`."""

    def __init__(self, root: Path, disk: Path, hub: Hub, shop: Shop, origin: ScriptedOrigin, seed: int) -> None:
        self._root, self._hub, self._shop, self._origin = root, hub, shop, origin
        self.data = DataDir(disk / "data")
        self._ballast = disk / "ballast"
        self._chance = random.Random(seed)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._life = -1
        self.faults: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.version = 0
        self.client: Client | None = None
        self._infer: InferProcess | None = None
        self._errors = 0
        self._full_disks = disk != root
        origin.fault = self._spoil

    async def first(self, stack: AsyncExitStack) -> None:
        """Install version 1, and start to serve and to ask."""
        stack.callback(self._end_daemon)
        self._start_daemon()
        await self._release()
        await self._until(lambda: self._pointer() == self.version, "the first version")
        self._infer = await asyncio.to_thread(InferProcess, self.data.root, model=NAME)
        stack.callback(self._infer.stop)
        self.client = Client(self._infer.address, published=self.version)
        await self._until(self._ready, "a ready server")
        self.client.start()
        stack.callback(self.client.stop)

    async def run(self, updates: int, seconds: float) -> None:
        """Update up to `updates` times, for at most about `seconds`. In the last half the daemon is not killed."""
        begin = time.monotonic()
        kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "cut download": self._cut,
            "origin answers 500": self._five_hundred,
            "worker killed": self._kill_worker,
            "daemon killed": self._kill_daemon,
            "hub connection dropped": self._drop,
            "disk full": self._fill_disk,
        }
        for number in range(updates):
            used = max((time.monotonic() - begin) / seconds, number / updates)
            if time.monotonic() - begin > seconds:
                break
            possible = [kind for kind in kinds if kind != "daemon killed" or used < 0.5]
            if not self._full_disks:
                possible.remove("disk full")
            if number < len(kinds):
                fault = possible[number % len(possible)]
            else:
                fault = self._chance.choice(possible) if self._chance.random() < 0.3 else ""
            striking = asyncio.create_task(kinds[fault]()) if fault else None
            self.faults.update([fault] if fault else [])
            await self._release()
            await self._until(self._settled, f"version {self.version} after {fault or 'no fault'}")
            if striking is not None:
                await striking
            self.samples.append(Sample(self._life, self._measure()))

    async def _release(self) -> None:
        """Publish the next version and have the twin ask for it."""
        self.version += 1
        await self._shop.publish_bytes(NAME, tiny_models.scaler(self.version), "model.onnx")
        if self.client is not None:
            self.client.published = self.version
        section = {"origin": self._origin.url, "models": {NAME: {"version": self.version}}}
        self._hub.set_desired("pi", {"modelsync": section})

    def _pointer(self) -> int:
        pointer = self.data.read_pointer(NAME)
        return pointer.version if pointer else 0

    def _ready(self) -> bool:
        assert self.client is not None
        connection = http.client.HTTPConnection(self.client.address, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", f"/v2/models/{NAME}/ready")
            return connection.getresponse().status == 200

    def _settled(self) -> bool:
        assert self.client is not None
        return self._pointer() == self.version == self.client.newest

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait; a daemon that ended by itself fails the soak."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert self._daemon is not None and self._daemon.poll() is None, "the daemon ended by itself"
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self._status()}"
            await asyncio.sleep(0.02)

    def _status(self) -> Any:
        with contextlib.suppress(NoDaemon, ModelsyncError, OSError):
            return socket_client.call(self.data.socket, "GET", "/v1/status", None)
        return "the daemon does not answer"

    # The faults

    def _spoil(self, exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
        if self._errors == 0 or not exchange.path.startswith(("updates/", "packs/", "manifests/")):
            return answer
        self._errors -= 1
        if self.cutting:
            answer.stop_after = len(answer.body) // 2
            return answer
        return Answer(500, b"", {})

    cutting = False

    async def _cut(self) -> None:
        self.cutting, self._errors = True, 1

    async def _five_hundred(self) -> None:
        self.cutting, self._errors = False, 2

    async def _kill_worker(self) -> None:
        """The first child that works on this update dies."""
        assert self._daemon is not None
        known = set(psutil.Process(self._daemon.pid).children(recursive=True))
        target = self.version + 1
        while self._pointer() < target:
            with contextlib.suppress(psutil.Error):
                for child in set(psutil.Process(self._daemon.pid).children(recursive=True)) - known:
                    child.kill()
                    return
            await asyncio.sleep(0.002)

    async def _kill_daemon(self) -> None:
        """At some moment of the update; the service manager starts it again."""
        await asyncio.sleep(self._chance.random() * 1.5)
        self._end_daemon()
        self._start_daemon()

    async def _drop(self) -> None:
        """At some moment of the update. Then somebody asks for attempts: by itself it waits 10 s and ever more."""
        await asyncio.sleep(self._chance.random() * 0.3)
        self._hub.device_side.drop_all("a fault of the soak")
        await self._sync_until_done()

    async def _fill_disk(self) -> None:
        """Full for a second; then somebody makes room, and asks for another attempt."""
        with self._ballast.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with self._ballast.open("r+b") as ballast:
            ballast.truncate(max(0, self._ballast.stat().st_size - _KEPT_FREE))
        await asyncio.sleep(1.0)
        self._ballast.unlink()
        await self._sync_until_done()

    async def _sync_until_done(self) -> None:
        while True:
            await self._sync()
            await asyncio.sleep(2.0)
            if self._settled():
                return

    async def _sync(self) -> None:
        with contextlib.suppress(NoDaemon, ModelsyncError, OSError):
            await asyncio.to_thread(socket_client.call, self.data.socket, "POST", "/v1/sync", None)

    def _start_daemon(self) -> None:
        config = self._root / "modelsyncd.toml"
        config.write_text(
            f'data = "{self.data.root}"\ntrust = "{self._shop.trust}"\nca = "{self._hub.ca_path}"\n'
            f'connection_string = "{self._hub.add_device("pi")}"\nprobation_seconds = 0\n'
        )
        with (self._root / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen([_COMMAND, "run", "--config", config], stderr=log)
        self._life += 1

    def _end_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(30)

    def _measure(self) -> dict[str, float]:
        assert self._daemon is not None and self._infer is not None
        daemon, server = _family(self._daemon.pid), _family(self._infer.process.pid)
        resident = daemon[0]
        return {
            "daemon memory": resident.memory_info().rss / 1024,
            "daemon descriptors": resident.num_fds(),
            "daemon threads": resident.num_threads(),
            "server memory": _memory(self._infer.process.pid) / 1024,
            "server descriptors": sum(map(_descriptors, server)),
            "server threads": sum(map(_threads, server)),
            "disk": _blocks(self.data.root) / 2,
            "database": self.data.state_db.stat().st_size / 1024,
        }


def _blocks(root: Path) -> int:
    """Blocks of 512 bytes of the files below `root`, but for those that go meanwhile."""
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_blocks
    return total


def _memory(pid: int) -> float:
    """Bytes resident of a process and its children; another look if one of them ends meanwhile."""
    while True:
        try:
            return resident([process.pid for process in _family(pid)])
        except (OSError, psutil.Error):
            psutil.Process(pid)  # raises if it is the parent that has ended


def _family(pid: int) -> list[Any]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _tolerant(look: Callable[[Any], float]) -> Callable[[Any], float]:
    def looking(process: Any) -> float:
        try:
            return look(process)
        except psutil.Error:  # it ended meanwhile
            return 0

    return looking


_descriptors = _tolerant(lambda process: float(process.num_fds()))
_threads = _tolerant(lambda process: float(process.num_threads()))


def tenths(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Medians of the first and the last tenth of the samples, by figure.

    The daemon's processes that were killed early are left out, and a fifth of what remains as warm-up.
    """
    last = [sample.figures for sample in samples if sample.life == samples[-1].life]
    steady = last[len(last) // 5 :]
    size = max(1, len(steady) // 10)
    return {
        name: (
            statistics.median(sample[name] for sample in steady[:size]),
            statistics.median(sample[name] for sample in steady[-size:]),
        )
        for name in steady[0]
    }


@contextlib.asynccontextmanager
async def soaking(root: Path, disk: Path, host: str, seed: int) -> AsyncIterator[Soak]:
    """A hub on `host`, a store, an origin and a device whose data directory is on `disk` (`root`: is not filled up)."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(Hub(root / "hub", HubAddress(host, service_port=0)))
        shop = await Shop.open(root)
        origin = await stack.enter_async_context(ScriptedOrigin(shop.path))
        soak = Soak(root, disk, hub, shop, origin, seed)
        await soak.first(stack)
        yield soak
