"""Reads from the kernel how many payload bytes a TCP connection carried (Linux TCP_INFO); it adds up nothing."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

_OFFSET = 120
"""`tcpi_bytes_acked` and `tcpi_bytes_received`, two u64 (linux/tcp.h, since 4.1)."""


class Socket(Protocol):
    """What is needed of a socket; a TLS socket will do."""

    def getsockopt(self, level: int, name: int, length: int, /) -> bytes:
        """As socket.socket.getsockopt."""
        ...


def carried(connection: Socket) -> tuple[int, int]:
    """Bytes received and bytes sent and acknowledged on `connection`; (0, 0) where the kernel does not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return 0, 0
    if len(info) < _OFFSET + 16:
        return 0, 0
    acked, received = struct.unpack_from("=QQ", info, _OFFSET)
    return received, max(0, acked - 1)  # the SYN counts one
