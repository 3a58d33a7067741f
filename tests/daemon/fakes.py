"""Stand-ins for the daemon's ports, and a device built on them. Each fake implements a port, none our own code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelsync_daemon.activate.activation import Patience
from modelsync_daemon.activate.inference_processes import Report
from modelsync_daemon.config import Settings
from modelsync_daemon.consumers.configured import Configured
from modelsync_daemon.control.plane import HintCallback, MethodAnswer, MethodCallback, Twin
from modelsync_daemon.disk.database import Database, ModelRow
from modelsync_daemon.disk.datadir import DataDir, Lock
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.resident import Resident
from modelsync_daemon.timing.backoff import Backoff
from modelsync_daemon.workers.messages import EventCallback, Job, Outcome
from modelsync_protocol import canonical, caps, twin
from modelsync_protocol.errors import ModelsyncError, UnreachableError
from tests.support import waiting

QUICK = Backoff(base=0.01, cap=0.02, floor=0.0)
NAME = "anomaly"


def reference(version: int, content: str = "") -> Reference:
    """The reference of the version that `install` makes."""
    return Reference(version, canonical.digest(_manifest(version, content)))


def install(data: DataDir, version: int, content: str = "", name: str = NAME) -> Reference:
    """Put a complete version on the disk, as the assembler would."""
    made = reference(version, content)
    folder = data.version_dir(name, made.version, made.digest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_text(f"{version}{content}")
    data.manifest_path(name, made.version, made.digest).write_bytes(_manifest(version, content))
    return made


def _manifest(version: int, content: str) -> bytes:
    return canonical.encode({"version": version, "content": content})


class MemoryControlPlane:
    """A hub in memory that keeps the rules of COMPONENTS §1: hints only while connected, merge patches, versions."""

    def __init__(self) -> None:
        self.desired: dict[str, Any] = {"$version": 1}
        self.reported: dict[str, Any] = {}
        self.patches: list[Mapping[str, Any]] = []
        self.reads = self.connects = 0
        self.fail_connects: list[ModelsyncError] = []
        self.mute_hints = False
        self._connected = False
        self._lost = asyncio.Event()
        self._on_hint: HintCallback = lambda version: None
        self._on_method: MethodCallback | None = None

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def reported_limit(self) -> int:
        return caps.MAX_TWIN_BYTES

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        self._on_hint, self._on_method = on_hint, on_method

    async def connect(self) -> None:
        self.connects += 1
        if self.fail_connects:
            raise self.fail_connects.pop(0)
        self._connected, self._lost = True, asyncio.Event()

    async def read_twin(self) -> Twin:
        self._check()
        self.reads += 1
        return Twin(json.loads(json.dumps(self.desired)), json.loads(json.dumps(self.reported)))

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        self._check()
        self.patches.append(patch)
        self.reported = twin.merge(self.reported, patch)

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return "dropped by the test."

    def wire(self) -> tuple[int, int]:
        return 10 * self.reads, 5 * self.reads

    async def close(self) -> None:
        self._connected = False
        self._lost.set()

    def drop(self) -> None:
        """Cut the line."""
        self._connected = False
        self._lost.set()

    def set_desired(self, patch: Mapping[str, Any], hint_version: int | None = None) -> None:
        """Change desired properties as REST would; a connected device gets a hint."""
        self.desired = {**twin.merge(self.desired, patch), "$version": self.desired["$version"] + 1}
        if self._connected and not self.mute_hints:
            self._on_hint(self.desired["$version"] if hint_version is None else hint_version)

    async def call(self, method: str, payload: Any = None) -> MethodAnswer:
        """Call a direct method."""
        assert self._on_method is not None
        return await self._on_method(method, payload)

    def _check(self) -> None:
        if not self._connected:
            raise UnreachableError("not connected.")


class FakePreparer:
    """Puts versions onto the disk without a network; `fail` and `block` stand in for what can happen."""

    def __init__(self, data: DataDir, database: Database) -> None:
        self.data, self.database = data, database
        self.jobs: list[Job] = []
        self.fail: list[ModelsyncError] = []
        self.early: list[ModelsyncError] = []
        """Raised once the metadata is known, before anything is planned."""
        self.block = asyncio.Event()
        self.block.set()
        self.cancelled = 0
        self.withdrawn: tuple[int, ...] = ()
        self.files: Callable[[int], Mapping[str, bytes | None]] = lambda version: {}
        """What else a version has; None: a pipe that nobody writes to."""

    def install(self, name: str, version: int) -> Reference:
        """Put a version on the disk."""
        return install(self.data, version, name=name)

    async def prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        self.jobs.append(job)
        assert job.version is not None
        if self.early:
            raise self.early.pop(0)
        for state in ("planning", "fetching"):
            self.database.transition(job.name, state)
            on_event({"event": "state", "state": state})
        on_event({"event": "wire", "received": 1000, "sent": 100})
        on_event({"event": "progress", "done": 1, "total": 2})
        try:
            await self.block.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail:
            raise self.fail.pop(0)
        held = any(item.version == job.version for item in self.data.installed(job.name))
        made = self.install(job.name, job.version)
        for path, content in self.files(job.version).items():
            file = self.data.version_dir(job.name, made.version, made.digest) / path
            if content is not None:
                file.write_bytes(content)
            elif not file.exists():
                os.mkfifo(file)
        size = 0 if held else 900
        return Outcome(
            job.name,
            made.version,
            made.digest,
            held,
            "held" if held else "update",
            size,
            1,
            1000,
            100,
            2,
            self.withdrawn,
        )


@dataclass
class Device:
    """A resident daemon on fakes."""

    resident: Resident
    data: DataDir
    database: Database
    preparer: FakePreparer
    plane: MemoryControlPlane
    lock: Lock
    task: asyncio.Task[None]
    inference: list[asyncio.Task[None]] = field(default_factory=list)

    def row(self, name: str = NAME) -> ModelRow:
        return self.database.model(name)

    def current(self, name: str = NAME) -> Pointer | None:
        return self.data.read_pointer(name)

    def shown(self) -> dict[str, Any]:
        """What the hub shows of this device."""
        section: dict[str, Any] = self.plane.reported.get("modelsync", {})
        return section

    def shown_model(self) -> dict[str, Any]:
        """What the hub shows of NAME."""
        model: dict[str, Any] = self.shown().get("models", {}).get(NAME, {})
        return model

    def wish(self, version: int | None, **more: Any) -> None:
        """Set the twin's wish for NAME."""
        model = {"version": version, **more}
        self.plane.set_desired({"modelsync": {"origin": "http://127.0.0.1:9", "models": {NAME: model}}})

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Wait until `condition()` holds; a daemon that ended fails at once."""

        def holds() -> object:
            found = condition()
            if not found and self.task.done():
                self.task.result()
            return found

        try:
            await waiting.until(holds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.database.models()} {self.current()}") from None

    async def serves(self, version: int) -> None:
        """Wait until `version` is active."""
        await self.until(lambda: self.row().state == "active" and (c := self.current()) and c.version == version)

    async def is_in(self, state: str, code: str | None = None) -> None:
        """Wait until NAME is in `state` (with an error code)."""
        await self.until(
            lambda: self.row().state == state and (code is None or self.row().error_code == code), f"{state} {code}"
        )

    async def kill(self) -> None:
        """End as kill -9 would: nothing is said, nothing flushed."""
        for task in (*self.inference, self.task):
            task.cancel()
        await asyncio.gather(*self.inference, self.task, return_exceptions=True)
        self.database.close()
        self.lock.close()


@contextlib.asynccontextmanager
async def device(
    root: Path,
    plane: MemoryControlPlane | None = None,
    patience: Patience | None = None,
    clock: Callable[[], float] | None = None,
    setup: Callable[[Device], None] = lambda device: None,
    backoffs: tuple[Backoff, Backoff, Backoff] = (QUICK, QUICK, QUICK),
    consumers: Configured | None = None,
    **settings: Any,
) -> AsyncIterator[Device]:
    """A running device on `root`; may be opened again on the same root, as after a restart.

    `backoffs`: after the origin, after refusals, after the hub. `consumers`: applications that are told.
    """
    data = DataDir(root)
    lock = data.lock()
    database = Database.open(data, clock) if clock else Database.open(data)
    plane = plane or MemoryControlPlane()
    preparer = FakePreparer(data, database)
    resident = Resident(
        Settings(data=root, **settings),
        data,
        database,
        preparer,
        plane,
        patience or Patience(probe=5.0, probation=0.05, settle=0.0),
        *backoffs,
        consumers=consumers,
    )
    made = Device(resident, data, database, preparer, plane, lock, asyncio.get_running_loop().create_task(_never()))
    setup(made)
    made.task.cancel()
    made.task = asyncio.get_running_loop().create_task(resident.run())
    try:
        yield made
    finally:
        await made.kill()


async def _never() -> None:
    await asyncio.Event().wait()


class Inference:
    """An inference process, as the socket's contract describes it: follows hints, loads, reports."""

    def __init__(self, device: Device, pid: int = 4711) -> None:
        self.device, self.pid = device, pid
        self.refuses: set[int] = set()
        self.serving: int | None = None
        self.probed: list[int] = []
        self.die_on_candidate = 0
        self.errors = 0
        self.defers = False

    def start(self) -> asyncio.Task[None]:
        """Register and follow until cancelled."""
        task = asyncio.get_running_loop().create_task(self.follow())
        self.device.inference.append(task)
        return task

    async def follow(self) -> None:
        while True:
            with self.device.resident.processes.register(NAME, self.pid) as watch:
                alive = True
                while alive:
                    alive = self._look()
                    if alive:
                        await watch.hints.get()
            await asyncio.sleep(0.01)

    def say(self, state: str, pointer: Pointer, which: str, reason: str = "", errors: int = 0) -> None:
        """Report."""
        self.device.resident.commands.report(
            NAME,
            Report(self.pid, which, pointer.generation, pointer.version, pointer.digest, state, reason, 10, errors),
        )

    def _look(self) -> bool:
        candidate = self.device.data.read_pointer(NAME, "candidate")
        if candidate is not None:
            self.probed.append(candidate.version)
            if self.die_on_candidate:
                self.die_on_candidate -= 1
                return False
            refused = candidate.version in self.refuses
            self.say(
                "refused" if refused else "ready", candidate, "candidate", "probe case 0 differs." if refused else ""
            )
        current = self.device.data.read_pointer(NAME)
        if current is not None and self.serving != current.generation and not self.defers:
            self.serving = current.generation
            self.say("serving", current, "current", errors=self.errors)
        return True
