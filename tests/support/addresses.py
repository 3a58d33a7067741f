"""Loopback addresses and ports for tests that must know them before somebody listens there.

Whatever this gives is claimed for as long as the test's process lives: no test process is given the same again, so
nothing falls into the moment between asking and listening. Who can listen on port 0 does, and asks nobody.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import socket
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO

PORTS = (8883, 8443)
"""Ports that must be free on a returned address: azure-iot-device only knows 8883."""

_FIRST_NET, _NETS, _HOSTS = 10, 90, 250
_FIRST_PORT, _PORTS = 10_000, 18_000
"""Below those that Linux gives to connections and to who listens on port 0 (`ip_local_port_range`)."""
_calls = itertools.count()
_mine: set[int] = set()


def loopback_address(worker_id: str = "") -> str:
    """Return an address from 127.0.10.2 to 127.0.99.251 on which nobody listens on PORTS; another one each time."""
    for number in _numbers(_NETS * _HOSTS, worker_id):
        address = f"127.0.{_FIRST_NET + number // _HOSTS}.{2 + number % _HOSTS}"
        if _claim(_PORTS + number) and all(_free(address, port) for port in PORTS):
            return address
    raise AssertionError("no free loopback address was found; stop the hubs that run on this machine")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, nor will, unless told; another one each time."""
    for number in _numbers(_PORTS):
        port = _FIRST_PORT + number
        if _claim(number) and _free("127.0.0.1", port):
            return port
    raise AssertionError(f"none of 100 ports of 127.0.0.1 from {_FIRST_PORT} is free")


def _numbers(count: int, worker_id: str = "") -> list[int]:
    """Candidates below `count`: they begin elsewhere in each process and with each call."""
    start = zlib.crc32(f"{worker_id}/{os.getpid()}".encode()) + next(_calls)
    return [(start + step) % count for step in range(100)]


def _claim(number: int) -> bool:
    """Whether `number` is this process' from now on. The kernel forgets it with the process."""
    file = _claims()
    if number in _mine:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError:
        return False
    _mine.add(number)
    return True


@functools.cache
def _claims() -> BinaryIO:
    """A file whose bytes are locked and never written; it stays open, for its locks end when it is closed."""
    return (Path(tempfile.gettempdir()) / f"modelsync-tests-{os.getuid()}.claims").open("ab")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
