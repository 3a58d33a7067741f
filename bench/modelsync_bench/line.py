"""A line that takes time: carries packets between two TUN interfaces and holds each back for half a round trip.

`python -m modelsync_bench.line LEFT RIGHT ONE_WAY_SECONDS` makes both interfaces (who called moves them into their
namespaces), prints "ready" and carries until it is ended. Rates and losses are the kernel's business (tbf, nft).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES = 65536
_MAX_QUEUE = 4096
"""Packets in flight each way; more are dropped, as a full router would."""


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def carry(ends: tuple[int, int], delay: float) -> None:
    """Carry until an interface is taken away; packets keep their order."""
    waiting: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    while True:
        due = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select(ends, (), (), timeout)
        for end in readable:
            try:
                while True:
                    packet = os.read(end, _PACKET_BYTES)
                    if len(waiting[end]) < _MAX_QUEUE:
                        waiting[end].append((time.monotonic() + delay, packet))
            except BlockingIOError:
                pass
            except OSError:
                return  # the interface was taken away
        now = time.monotonic()
        for end, queue in waiting.items():
            while queue and queue[0][0] <= now:
                try:
                    os.write(other[end], queue.popleft()[1])
                except OSError:
                    continue  # the interface is not up (yet): the packet is lost


def main() -> None:
    """See the module."""
    left, right, delay = sys.argv[1:]
    ends = (_tun(left), _tun(right))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry(ends, float(delay))


if __name__ == "__main__":
    main()
