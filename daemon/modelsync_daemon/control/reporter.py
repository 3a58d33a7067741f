"""Puts the reported twin into the outbox whenever something has changed. It does not send it."""

from __future__ import annotations

import asyncio
from typing import Any

from modelsync_daemon.control.hub_link import HubLink
from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.reconcile.commands import Commands
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.reconcile.reconciler import Reconciler
from modelsync_daemon.reconcile.signals import Signals
from modelsync_protocol import twin
from modelsync_protocol.errors import LocalError

_REPORT_SECONDS = 0.3
_BRIEF_SECONDS = 5.0
"""What is prepared within this time is reported when it is: a report costs more than a small update's trust."""


class Reporter:
    """One device's reports. `run` it as a task."""

    def __init__(
        self,
        device: Device,
        reconciler: Reconciler,
        commands: Commands,
        outbox: Outbox,
        link: HubLink,
        signals: Signals,
    ) -> None:
        self._device, self._reconciler, self._commands = device, reconciler, commands
        self._outbox, self._link, self._changed = outbox, link, signals.changed

    async def run(self) -> None:
        """Report at the start, and after each change; changes that follow each other closely are one report."""
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_REPORT_SECONDS)
            for _ in range(round(_BRIEF_SECONDS / _REPORT_SECONDS)):
                if not self._reconciler.preparing():
                    break
                await asyncio.sleep(_REPORT_SECONDS)
            self._changed.clear()
            self._report()

    def _document(self) -> dict[str, Any]:
        status, problems = self._commands.status(), self._device.problems()
        return twin.build_reported(status, problems, self._link.reported_limit)

    def _report(self) -> None:
        try:
            self._outbox.put(self._document())
        except LocalError as error:
            self._reconciler.postpone(error)
        self._link.send_soon()
