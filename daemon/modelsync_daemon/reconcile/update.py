"""One model's update: the worker prepares a version, then it is activated; what fails waits with a reason.

Which version, and whether now, is decided elsewhere (decision.py); what it may cost is the device's limits (device.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from modelsync_daemon.activate.activation import Activation
from modelsync_daemon.activate.consumer import NotThere
from modelsync_daemon.capabilities import refusals
from modelsync_daemon.disk import ledger as budget
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import State
from modelsync_daemon.network.networks import NetworkChanged
from modelsync_daemon.reconcile.decision import fingerprint
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.reconcile.imports import Imports
from modelsync_daemon.reconcile.pushed_updates import PushedUpdates
from modelsync_daemon.timing.backoff import NETWORK, REFUSED, Backoff
from modelsync_daemon.transfer.errors import (
    AccessRefused,
    BudgetExceeded,
    NotClosed,
    OriginBusy,
    TooLargeHere,
    Unsupported,
)
from modelsync_daemon.workers.messages import EventCallback, Outcome, Preparer, WorkerDied
from modelsync_protocol.errors import LocalError, ModelsyncError, UnreachableError
from modelsync_protocol.twin import Wish

_PROGRESS_SECONDS = 10.0
_LONGEST_BUSY_SECONDS = 5400.0
_log = logging.getLogger(__name__)


class Updates:
    """Runs updates; the resident daemon has one, and gives each model at most one call at a time."""

    def __init__(
        self,
        device: Device,
        preparer: Preparer,
        pushed: PushedUpdates,
        imports: Imports,
        activation: Activation,
        changed: Callable[[], None],
        network: Backoff = NETWORK,
        refused: Backoff = REFUSED,
    ) -> None:
        """`changed` is called when there is something new to report; `network` and `refused` space the attempts."""
        self._device, self._data, self._database, self._ledger = device, device.data, device.database, device.ledger
        self._preparer, self._pushed, self._imports = preparer, pushed, imports
        self._activation, self._changed = activation, changed
        self._network, self._refused = network, refused
        self._progress_told = 0.0
        self.progress: dict[str, tuple[int, int]] = {}

    async def run(self, name: str, wish: Wish, fresh: bool) -> None:
        """From `resolving` until the new version is in service, refused, or has to wait; never raises ModelsyncError
        from fetching. `fresh`: the wish is new, so attempts count from one. Cancelling loses nothing durable.
        """
        before = self._database.model(name)
        for digest, refused in self._database.quarantined(name).items():
            if refused.version == wish.version and refused.retry != wish.retry:
                self._database.unquarantine(name, digest)
        self._database.transition(
            name,
            State.RESOLVING,
            desired=fingerprint(wish),
            target_version=wish.version,
            target_digest=None,
            attempts=1 if fresh else before.attempts + 1,
            retry_at=0,
        )
        self._changed()
        progressed, device_was = False, self._device.fingerprint(name)

        def on_event(event: Mapping[str, Any]) -> None:
            nonlocal progressed
            progressed = self._on_worker(name, event) or progressed

        try:
            outcome = self._pushed.staged(name, wish.version) or await self._prepare(name, wish, on_event)
            self._pushed.forget(name)
        except UnreachableError as error:
            held = self._held(name, wish)
            if held is None:
                self.wait(name, error, progressed)
                return
            await self._activation.install(name, held, wish.retry)
            return
        except Unsupported as error:
            _log.warning("%s", error)
            refusals.remember(self._database, name, device_was)
            self._database.transition(
                name, State.UNSUPPORTED, error_code="unsupported", error_text=str(error), attempts=0
            )
            return
        except NotClosed as error:
            self._database.quarantine(name, error.digest, error.version, str(error), wish.retry)
            self._database.transition(name, State.QUARANTINED, error_code="refused", error_text=str(error))
            return
        except ModelsyncError as error:
            self.wait(name, error, progressed)
            return
        self._database.withdraw(name, frozenset(outcome.withdrawn))
        self._database.update(name, synced=False, bytes=outcome.bytes)  # with the next step
        refusals.note_unknown(self._database, name, outcome.version, outcome.unknown)
        await self._activation.install(name, Reference(outcome.version, outcome.digest), wish.retry)

    async def _prepare(self, name: str, wish: Wish, on_event: EventCallback) -> Outcome:
        carried = await self._imports.prepare(name, wish.version, on_event)
        if carried is not None:
            return carried
        try:
            async with asyncio.timeout(self._device.seconds_to_close()), self._device.networks.unchanged():
                return await self._preparer.prepare(self._device.job(name, wish.version), on_event)
        except TimeoutError:
            raise _WindowClosed("the time window for fetching closed; it goes on when the next one opens.") from None

    def _on_worker(self, name: str, event: Mapping[str, Any]) -> bool:
        """Take in a worker's event; True if the fetch moved on."""
        if event["event"] == "wire":
            self._ledger.add(event["received"], event["sent"])
        elif event["event"] == "site":
            self._device.site_ledger.add(event["received"], event["sent"], event["wasted"])
        elif event["event"] == "state":
            self._changed()
        elif event["event"] == "progress":
            moved = event["done"] > self.progress.get(name, (event["done"], 0))[0]
            self.progress[name] = (event["done"], event["total"])
            now = asyncio.get_running_loop().time()
            if now - self._progress_told > _PROGRESS_SECONDS:
                self._progress_told = now
                self._changed()
            return bool(moved)
        return False

    def _held(self, name: str, wish: Wish) -> Reference | None:
        """An installed, neither withdrawn nor refused version that satisfies `wish` offline."""
        if wish.version in self._database.withdrawn(name):
            return None
        refused = self._database.quarantined(name)
        for item in self._data.installed(name):
            if item.version == wish.version and item.digest not in refused:
                return item.reference
        return None

    def wait(self, name: str, error: ModelsyncError, progressed: bool) -> None:
        """Persist that `name` waits because of `error`, and until when; progress forgives earlier failures."""
        row, now = self._database.model(name), self._database.clock()
        attempts = 1 if progressed else max(row.attempts, 1)
        code, wait = "refused", self._refused.seconds(attempts)
        if isinstance(error, UnreachableError):
            code = "access" if isinstance(error, AccessRefused) else "offline"
            wait = self._network.seconds(attempts)
            if isinstance(error, OriginBusy):
                wait = max(wait, min(error.after, _LONGEST_BUSY_SECONDS))
        elif isinstance(error, BudgetExceeded):
            code, wait = "budget", budget.seconds_to_next_day(now) + 1
        elif isinstance(error, TooLargeHere):  # another network may take it, or another policy
            code, wait = "network", budget.seconds_to_next_day(now) + 1
        elif isinstance(error, NetworkChanged):
            code, wait = "network", self._network.seconds(attempts)
        elif isinstance(error, _WindowClosed):
            code, wait = "window", 1.0
        elif isinstance(error, NotThere):
            code = "consumer"
        elif isinstance(error, WorkerDied):
            code, wait = "worker", self._network.seconds(attempts)
        elif isinstance(error, LocalError):
            code = "disk"
        _log.warning("%s: %s (%s, again in %.0f s)", name, error, code, wait, extra={"model": name})
        self._database.transition(
            name,
            State.WAITING,
            error_code=code,
            error_text=str(error),
            attempts=attempts,
            retry_at=max(1, int(now + wait) + 1),
        )


class _WindowClosed(ModelsyncError):
    """The time window ended while fetching."""
