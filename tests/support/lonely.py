"""Runs existing tests with a site on of which nobody is left: set TEST_SITE_GONE to a file that counts its uses.

A site's promise is that with all neighbours gone a device does what it does without any, to the byte; so the daemon's
own tests are the proof (tests/site/test_alone.py runs them so).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.transfer.site_access import SiteAccess

VARIABLE = "TEST_SITE_GONE"
_PEERS = 3


def lonely_site(root: Path) -> SiteAccess | None:
    """For a device on `root`, if the variable is set: a site of which nobody answers, not even its own server."""
    if not _counted():
        return None
    folder = root / "site"
    Spool(folder, 1 << 30).create()
    peers = tuple(f"127.0.0.1:{_dead_port()}" for _ in range(_PEERS))
    return SiteAccess("test", f"127.0.0.1:{_dead_port()}", peers, str(folder), 1 << 30)


def lonely_settings() -> str:
    """The same as lines of a daemon's settings; this device's own server runs."""
    if not _counted():
        return ""
    peers = ", ".join(f'"127.0.0.1:{_dead_port()}"' for _ in range(_PEERS))
    return f'site_address = "127.0.0.1:{_dead_port()}"\nsite_peers = [{peers}]\n'


def _counted() -> bool:
    log = os.environ.get(VARIABLE)
    if log:
        with Path(log).open("a") as file:
            file.write("once\n")
    return bool(log)


def _dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
