"""Stages updates that are pushed over the hub's connection (direct method `apply`), so that nothing need be fetched.

Staging verifies and puts the version onto the disk; the desired version that follows activates it. What is staged is
remembered in memory and for a short while only: later, the origin is asked whether the version is still good.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelsync_daemon.disk.durable import durable_unlink, durable_write
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.transfer.pushed_origin import Pushed
from modelsync_daemon.workers.messages import Job, Outcome, Preparer
from modelsync_protocol.errors import RefusedError, UnreachableError

STAGED_SECONDS = 900
"""How long a staged version may be activated without asking the origin about it."""


@dataclass(frozen=True, slots=True)
class _Staged:
    outcome: Outcome
    at: float


class PushedUpdates:
    """The staged versions of one data directory, one a model."""

    def __init__(self, device: Device, preparer: Preparer) -> None:
        self._data, self._database, self._preparer = device.data, device.database, preparer
        self._trust, self._required = device.settings.trust, device.settings.require_confinement
        self._requirements = device.requirements
        self._staged: dict[str, _Staged] = {}
        self._busy: set[str] = set()

    def busy(self, name: str) -> bool:
        """Whether a push for `name` is being staged: nothing else may be begun for it."""
        return name in self._busy

    async def apply(self, payload: object, running: Callable[[str], bool]) -> Outcome:
        """Verify and stage a pushed update; repeating it changes nothing.

        UsageError or RefusedError if it does not apply here: the device then fetches when the version is desired.
        """
        pushed = await asyncio.to_thread(Pushed.parse, payload)
        name = pushed.model
        if running(name) or name in self._busy:
            raise RefusedError(f"{name} is being updated already; set the desired version and it will fetch.")
        held = self._data.installed(name)
        if not any(item.digest == pushed.base for item in held):
            versions = ", ".join(str(item.version) for item in held) or "none"
            raise RefusedError(
                f"the push builds on {pushed.base[:12]}…, which this device does not hold (its versions: {versions}); "
                "set the desired version and it will fetch."
            )
        self._busy.add(name)
        path = self._data.root / "incoming" / f"{name}.pushed"
        try:
            await asyncio.to_thread(durable_write, path, json.dumps(payload).encode())
            job = Job(
                name=name,
                version=pushed.version,
                origin="",
                data=str(self._data.root),
                trust_root=str(self._trust) if self._trust else None,
                quarantined=tuple(self._database.quarantined(name)),
                pushed=str(path),
                require_confinement=self._required,
                **self._requirements(name),
            )
            try:
                done = await self._preparer.prepare(job, lambda event: None)
            except UnreachableError as error:  # it asks for what was not pushed
                raise RefusedError(
                    f"the pushed update can't be applied: {error} Set the desired version and it will."
                ) from error
            outcome = replace(done, kind="pushed", bytes=len(pushed.update), requests=0)
            self._staged[name] = _Staged(outcome, self._database.clock())
            return outcome
        finally:
            self._busy.discard(name)
            await asyncio.to_thread(durable_unlink, path)

    def staged(self, name: str, version: int | None) -> Outcome | None:
        """That version as it was staged, if it was, is fresh and still lies on the disk."""
        found = self._staged.get(name)
        if found is None or found.outcome.version != version:
            return None
        age = self._database.clock() - found.at
        lies = self._data.find(name, Reference(found.outcome.version, found.outcome.digest)) is not None
        return found.outcome if 0 <= age < STAGED_SECONDS and lies else None

    def lies_staged(self, name: str) -> Reference | None:
        """The version that lies staged for `name`, wanted or not (yet)."""
        found = self._staged.get(name)
        return None if found is None else Reference(found.outcome.version, found.outcome.digest)

    def forget(self, name: str) -> None:
        """What was staged is being activated, or no longer wanted."""
        self._staged.pop(name, None)
