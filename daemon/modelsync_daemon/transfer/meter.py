"""Counts what TCP connections carry, by the kernel's figures: sockets that add themselves up. No requests here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from modelsync_daemon.transfer.tcp_info import carried


class CountedSocket(socket.socket):
    """A socket that hands its byte counts to `account` when it is closed."""

    account: Callable[[CountedSocket], None] | None = None

    def close(self) -> None:
        account, self.account = self.account, None
        if account is not None and self.fileno() >= 0:
            account(self)
        super().close()


class Meter:
    """Bytes of payload on all sockets that it made, both ways (TLS and headers included)."""

    def __init__(self) -> None:
        self._live: set[CountedSocket] = set()
        self._closed = [0, 0]
        self._told = [0, 0]

    def socket(self, address: tuple[Any, ...]) -> CountedSocket:
        """An unconnected, counted socket for an entry of getaddrinfo()."""
        sock = CountedSocket(*address[:3])
        sock.account = self._account
        self._live.add(sock)
        return sock

    @property
    def carried(self) -> tuple[int, int]:
        """Received and sent so far."""
        received, sent = self._closed
        for live in self._live:
            more_received, more_sent = carried(live)
            received, sent = received + more_received, sent + more_sent
        return received, sent

    def news(self) -> tuple[int, int]:
        """Received and sent since the last call."""
        received, sent = self.carried
        new = received - self._told[0], sent - self._told[1]
        self._told = [received, sent]
        return new

    def _account(self, sock: CountedSocket) -> None:
        received, sent = carried(sock)
        self._closed[0] += received
        self._closed[1] += sent
        self._live.discard(sock)
