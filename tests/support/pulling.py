"""Pulls versions as a device does: in this process through the library, or with `modelsyncd pull` as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelsync_daemon.build.pipeline import prepare
from modelsync_daemon.build.request import Prepared, PrepareRequest, Trust
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.trust.trust_store import TrustStore
from tests.support.lonely import lonely_site


class Silent:
    """A listener that remembers the states and the wire's bytes."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.received = self.sent = 0
        self.site_received = self.site_sent = self.wasted = 0
        self.wrong: list[tuple[str, str]] = []

    def state(self, state: str) -> None:
        self.states.append(state)

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def wire(self, received_delta: int, sent_delta: int) -> None:
        self.received += received_delta
        self.sent += sent_delta

    def site(self, received_delta: int, sent_delta: int, wasted_delta: int) -> None:
        self.site_received += received_delta
        self.site_sent += sent_delta
        self.wasted += wasted_delta

    def neighbour(self, target: str, holder: str, *, wrong: bool) -> None:
        self.wrong += [(target, holder)] if wrong else []


class Device:
    """A data directory that is filled in this process."""

    def __init__(self, root: Path, trust: Path) -> None:
        self.data = DataDir(root)
        self.trust = trust
        self.open_trust: Callable[[Path], Trust] = TrustStore
        self.listener = Silent()
        self._generation = 0

    async def pull(self, name: str, origin: str, version: int | None = None, **options: Any) -> Prepared:
        """Prepare a version and point `current` at it."""
        options.setdefault("stall_seconds", 5.0)
        if "site" not in options and (site := lonely_site(self.data.root)) is not None:
            options["site"] = site
        with self.data.lock(), contextlib.closing(Database.open(self.data)) as database:
            self.data.clean()
            request = PrepareRequest(name, version, origin, self.data.root, trust_root=self.trust, **options)
            self.listener = Silent()
            prepared = await prepare(request, database, self.listener, self.open_trust)
            before = self.data.read_pointer(name)
            self._generation += 1
            reference = Reference(prepared.version, prepared.digest)
            previous = before.reference if before and before.reference != reference else None
            self.data.write_current(Pointer(name, reference, self._generation, previous))
        return prepared

    def files(self, name: str) -> dict[str, bytes]:
        """Path → content of the current version."""
        root = (self.data.model_dir(name) / "current").resolve()
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def leftovers(self) -> list[str]:
        """What lies in incoming/: nothing, once all is done."""
        return [str(p) for p in (self.data.root / "incoming").rglob("*")]


async def spawn_pull(name: str, origin: str, data: Path, trust: Path, *more: str) -> asyncio.subprocess.Process:
    """Start `modelsyncd pull … --json` as a process."""
    return await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("modelsyncd"),
        *("pull", name, "--origin", origin, "--data", str(data), "--trust", str(trust), "--json", *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The JSON of a pull that must succeed."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    document = json.loads(out)
    assert isinstance(document, dict)
    return document
