"""Tells systemd that the daemon is ready, alive and what it does; does nothing outside systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os


class Notify:
    """systemd's notify socket (sd_notify(3)); without NOTIFY_SOCKET every call does nothing."""

    def __init__(self) -> None:
        self._notifier = None
        if os.environ.get("NOTIFY_SOCKET"):
            import sd_notify

            address = os.environ["NOTIFY_SOCKET"]
            self._notifier = sd_notify.Notifier(addr="\0" + address[1:] if address.startswith("@") else address)

    def ready(self, text: str) -> None:
        """READY=1 and a status line."""
        if self._notifier is not None:
            with contextlib.suppress(OSError):
                self._notifier.ready()
                self._notifier.status(text)

    def status(self, text: str) -> None:
        """A status line."""
        if self._notifier is not None:
            with contextlib.suppress(OSError):
                self._notifier.status(text)

    async def watchdog(self) -> None:
        """Say that the loop is alive, twice per WatchdogSec, for ever; returns at once if there is no watchdog."""
        limit = os.environ.get("WATCHDOG_USEC", "")
        if self._notifier is None or not limit.isdigit():
            return
        while True:
            with contextlib.suppress(OSError):
                self._notifier.notify()
            await asyncio.sleep(int(limit) / 2_000_000)
