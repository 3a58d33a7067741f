"""A line where namespaces are not permitted: a counting TCP relay before each server, all on loopback addresses.

It counts TCP payload, TLS included, and neither IP and TCP headers nor what is lost and sent again. Rates and delays
are the relay's; a lossy line can't be had. The relay is the demo's, so this needs a checkout.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, TypeVar

from modelsync_bench.checkout import make_importable
from modelsync_bench.lab import Counts, LabError
from modelsync_bench.result import Counter, LinkProfile

_HOST = "127.0.0.1"
_T = TypeVar("_T")


class RelayLab:
    """See the module."""

    counter: Counter = "relay"
    trusts_ca = False
    server_host = _HOST

    def __init__(self) -> None:
        try:
            make_importable()
        except FileNotFoundError as error:
            raise LabError(str(error)) from error
        from examples.demo.relay import Relay

        self._make = Relay
        self._relays: dict[int, Any] = {}
        self._link: LinkProfile | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> RelayLab:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for relay in self._relays.values():
            self._do(relay.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def on_server(self, argv: list[str]) -> list[str]:
        return argv

    def on_device(self, argv: list[str]) -> list[str]:
        return argv

    def port(self, usual: int) -> int:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            number: int = probe.getsockname()[1]
            return number

    def reach(self, port: int) -> tuple[str, int]:
        if port not in self._relays:
            self._relays[port] = self._do(self._open(port))
        return _HOST, self._relays[port].port

    def counts(self) -> Counts:
        both = [self._do(self._count(relay)) for relay in self._relays.values()]
        return Counts(sum(up for up, _ in both), sum(down for _, down in both))

    def use(self, link: LinkProfile) -> None:
        if link.lost_per_mille:
            raise LabError("packets can only be lost in a network namespace: run as root.")
        self._link = link
        for relay in self._relays.values():
            self._do(self._set(relay))

    def cut_after(self, down_bytes: int, how: Literal["reset", "silence"]) -> None:
        raise LabError("the relay cuts one server's line only: run as root, where a namespace's line is cut.")

    def is_cut(self) -> bool:
        return False

    def mend(self) -> None:
        return

    async def _open(self, port: int) -> Any:
        relay = self._make(_HOST, port)
        await relay.__aenter__()
        await self._set(relay)
        return relay

    async def _set(self, relay: Any) -> None:
        if self._link is not None:
            rates = [rate for rate in (self._link.down_bits, self._link.up_bits) if rate]
            relay.rate = max(rates) / 8 if rates else None
            relay.delay = self._link.round_trip_ms / 2000

    async def _count(self, relay: Any) -> tuple[int, int]:
        counts = relay.counts()
        return counts.up, counts.down

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)
