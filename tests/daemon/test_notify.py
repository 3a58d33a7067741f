"""What systemd is told: ready, and that the event loop is alive, only as long as it is."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from modelsync_daemon.local.notify import Notify
from tests.support.waiting import PATIENCE_SECONDS


async def test_the_watchdog_is_fed_by_the_loop_and_by_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        notify = Notify()
        notify.ready("text")
        told = [systemd.recv(256), systemd.recv(256)]
        assert told == [b"READY=1\n", b"STATUS=text\n"]
        feeding = asyncio.ensure_future(notify.watchdog())
        await asyncio.sleep(0.5)
        assert _heard(systemd)
        time.sleep(0.5)  # noqa: ASYNC251 - the loop hangs
        assert _heard(systemd) == 0, "a hanging loop must not look alive"
        await asyncio.sleep(0.5)
        assert _heard(systemd)
        feeding.cancel()


async def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = Notify()
    notify.ready("text")
    await asyncio.wait_for(notify.watchdog(), PATIENCE_SECONDS)


def _heard(systemd: socket.socket) -> int:
    """Signs of life since the last call."""
    count = 0
    while True:
        try:
            count += systemd.recv(256) == b"WATCHDOG=1\n"
        except BlockingIOError:
            return count
