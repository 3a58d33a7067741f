"""Loopback addresses for tests that need fixed ports (azure-iot-device only knows 8883): one address per caller."""

from __future__ import annotations

import itertools
import os
import socket
import zlib

PORTS = (8883, 8443)
"""Ports that must be free on a returned address."""

_FIRST_NET, _NETS, _HOSTS = 10, 90, 250
_calls = itertools.count()


def loopback_address(worker_id: str = "") -> str:
    """Return an address from 127.0.10.2 to 127.0.99.251 on which nobody listens on PORTS; another one each time.

    `worker_id` is pytest-xdist's; the process id is mixed in, so that several test runs get along on one machine.
    """
    start = zlib.crc32(f"{worker_id}/{os.getpid()}".encode())
    for _ in range(100):
        number = (start + next(_calls)) % (_NETS * _HOSTS)
        address = f"127.0.{_FIRST_NET + number // _HOSTS}.{2 + number % _HOSTS}"
        if all(_free(address, port) for port in PORTS):
            return address
    raise AssertionError("no free loopback address was found; stop the hubs that run on this machine")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
