"""Mends installed versions that a scrub found damaged: what is wrong is fetched again, the rest is taken as it lies.

A repair changes no pointer and no state. It gives way to updates, keeps to budget and windows, and goes on trying
while the origin can't be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.network.networks import NetworkChanged
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.timing.backoff import NETWORK, Backoff
from modelsync_daemon.transfer.errors import TooLargeHere
from modelsync_daemon.workers.messages import Preparer
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError

_GIVE_WAY_SECONDS = 5.0
_CLOSED_SECONDS = 30.0
"""A network that allows no downloads is looked at again so often."""

_log = logging.getLogger(__name__)


class Repairs:
    """The repairs of one data directory. `done` is called when a model is free again."""

    def __init__(
        self,
        device: Device,
        preparer: Preparer,
        done: Callable[[], None],
        network: Backoff = NETWORK,
    ) -> None:
        self._device, self._data, self._ledger = device, device.data, device.ledger
        self._preparer, self._done, self._network = preparer, done, network
        self._tasks: dict[tuple[str, Reference], asyncio.Task[None]] = {}
        self._busy: set[str] = set()

    def busy(self, name: str) -> bool:
        """Whether a version of `name` is being mended right now: nothing else may be begun for it."""
        return name in self._busy

    def begin(self, name: str, reference: Reference, running: Callable[[str], bool]) -> None:
        """Mend a version in the background; asking again changes nothing. Raises RefusedError if it is not here."""
        if self._data.find(name, reference) is None:
            raise RefusedError(f"{name} version {reference.version} with that digest is not installed here.")
        key = (name, reference)
        if key not in self._tasks:
            task = asyncio.ensure_future(self._mend(name, reference, running))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def stop(self) -> None:
        """Cancel what is under way; the next scrub finds it again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _mend(self, name: str, reference: Reference, running: Callable[[str], bool]) -> None:
        attempts = 0
        while self._data.find(name, reference) is not None:
            await self._device.networks.look()
            closed = _CLOSED_SECONDS if self._device.networks.closed() else self._device.seconds_to_open()
            if closed or running(name) or self.busy(name):
                await asyncio.sleep(max(closed, _GIVE_WAY_SECONDS))
                continue
            attempts += 1
            try:
                await self._once(name, reference)
                _log.warning(
                    "%s version %d was damaged on the disk and is whole again.",
                    name,
                    reference.version,
                    extra={"model": name},
                )
                return
            except (UnreachableError, NetworkChanged, TooLargeHere) as error:
                wait = self._network.seconds(attempts)
                _log.warning(
                    "%s version %d is damaged and waits: %s", name, reference.version, error, extra={"model": name}
                )
                await asyncio.sleep(wait)
            except ModelsyncError as error:
                _log.error(
                    "%s version %d is damaged and can't be mended: %s",
                    name,
                    reference.version,
                    error,
                    extra={"model": name},
                )
                return

    async def _once(self, name: str, reference: Reference) -> None:
        self._busy.add(name)
        try:
            job = replace(self._device.job(name, reference.version), repair=reference.digest, quarantined=())
            async with self._device.networks.unchanged():
                await self._preparer.prepare(job, self._on_event)
        finally:
            self._busy.discard(name)
            self._done()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "wire":
            self._ledger.add(event["received"], event["sent"])
        elif event["event"] == "site":
            self._device.site_ledger.add(event["received"], event["sent"], event["wasted"])
