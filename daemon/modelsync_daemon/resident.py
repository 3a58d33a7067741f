"""The resident daemon, put together: every part is made here, gets what it needs by name, and runs until cancelled.

The composition root does nothing else: what is desired comes in by control/, is brought about by reconcile/, and what
was done goes out by control/ again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelsync_daemon.activate import telling
from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_history import InferenceHistory
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.activate.telling import Telling
from modelsync_daemon.config import Settings
from modelsync_daemon.control.hub_link import CheckIn, HubLink
from modelsync_daemon.control.methods import Methods
from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.control.plane import ControlPlane
from modelsync_daemon.control.reporter import Reporter
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.reconcile.commands import Commands
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.reconcile.imports import Imports
from modelsync_daemon.reconcile.pushed_updates import PushedUpdates
from modelsync_daemon.reconcile.reconciler import Reconciler
from modelsync_daemon.reconcile.repair import Repairs
from modelsync_daemon.reconcile.signals import Signals
from modelsync_daemon.reconcile.update import Updates
from modelsync_daemon.timing.backoff import HUB, NETWORK, REFUSED, Backoff
from modelsync_daemon.workers.messages import Preparer
from modelsync_protocol.errors import LocalError

_FLUSH_SECONDS = 3600.0

if TYPE_CHECKING:
    from modelsync_daemon.activate.telling import Choose
    from modelsync_daemon.consumers.configured import Configured
    from modelsync_daemon.transfer.site_access import SiteAccess


class Resident:
    """One data directory's daemon. The caller holds the lock and owns database, plane and preparer."""

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        database: Database,
        preparer: Preparer,
        plane: ControlPlane | None = None,
        patience: Patience | None = None,
        network: Backoff = NETWORK,
        refused: Backoff = REFUSED,
        hub: Backoff = HUB,
        first_pause: float = 0.0,
        neighbours: Callable[[], SiteAccess | None] = lambda: None,
        consumers: Configured | None = None,
        noticed: Callable[[], None] = lambda: None,
    ) -> None:
        """`first_pause`: seconds until hub and origin are first asked; `neighbours`: who shares them, now; `consumers`:
        applications that are told of versions; `noticed` is called when the twin is about to be read for a change."""
        patience = patience or Patience(probe=settings.probe_seconds, probation=settings.probation_seconds)
        self.signals, device = Signals(), Device.of(settings, data, database, neighbours)
        signals = self.signals
        self.processes = Processes()
        told = Telling(data, database, _chooser(consumers, device), network)
        for row in database.models():
            if not told.has(row.name):  # the settings named somebody once
                telling.forget(database, row.name)
        activation = Activation(data, database, self.processes, patience, signals.changed.set, told)
        pushed = PushedUpdates(device, preparer)
        imports = Imports(device, preparer)
        updates = Updates(device, preparer, pushed, imports, activation, signals.changed.set, network, refused)
        repairs = Repairs(device, preparer, signals.look.set, network)
        reconciler = Reconciler(device, updates, pushed, repairs, activation, signals, refused, first_pause)
        link, outbox = None, Outbox(database)
        if plane is not None:
            check_in = None
            if settings.connect_every is not None:
                check_in = CheckIn(settings.connect_every, lambda: bool(reconciler.tasks) or signals.changed.is_set())
            link = HubLink(
                plane, outbox, device.ledger, settings.reconcile_seconds, hub, refused, check_in, first_pause, noticed
            )
            device.networks.moved = link.roamed
        history = InferenceHistory(database, time.monotonic)
        self.commands = Commands(
            device, reconciler, updates, pushed, imports, repairs, activation, history, signals, link
        )
        self.device = device
        self.ledger, self._reconciler, self._repairs, self._link = device.ledger, reconciler, repairs, link
        self._reporter = (
            Reporter(device, reconciler, self.commands, outbox, link, signals) if link is not None else None
        )

    async def run(self) -> None:
        """Resume what was under way, then reconcile until cancelled; leaves everything durable behind."""
        self._reconciler.resume()
        jobs = [self._reconciler.run(), self._flush_hourly()]
        if self._link is not None and self._reporter is not None:
            jobs += [self._reporter.run(), self._link.run(self._reconciler.accept, Methods(self.commands).answer)]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._repairs.stop()
            with contextlib.suppress(LocalError):
                self.ledger.flush()
                self.device.site_ledger.flush()

    async def _flush_hourly(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            with contextlib.suppress(LocalError):  # it is still counted, and flushed later
                self.ledger.flush()
                self.device.site_ledger.flush()


def _chooser(consumers: Configured | None, device: Device) -> Choose:
    if consumers is None:
        return lambda name: None
    return consumers.chooser(device.data, lambda name: device.desired.of(name).activate)
