"""Devices of one site for tests, in this process: each a data directory, served to the others by the real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from modelsync_daemon.build.request import Prepared
from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.site.server import SiteServer
from modelsync_daemon.transfer.errors import Misled
from modelsync_daemon.transfer.site_access import SiteAccess
from tests.support.addresses import free_port
from tests.support.pulling import Device


class Neighbour:
    """One device: `pull` as any device does, and a server for the others. Use as an async context manager."""

    def __init__(self, root: Path, trust: Path, port: int, peers: Sequence[str], **access: Any) -> None:
        self.device = Device(root, trust)
        self.folder = root / "site"
        self.access = SiteAccess(
            name="test", me=f"127.0.0.1:{port}", peers=tuple(peers), folder=str(self.folder),
            **{"quota": 1 << 30, **access},
        )  # fmt: skip
        self.spool = Spool(self.folder, self.access.quota)
        self.served = [0, 0]
        self.misled = 0
        self.server = SiteServer(
            self.spool, lambda: (self.access.name, self.access.me), self._count, self.access.server_context()
        )

    async def __aenter__(self) -> Neighbour:
        self.device.data.create()
        self.spool.create()
        await self.server.start("127.0.0.1", self.access.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.stop()

    async def pull(self, name: str, origin: str, version: int | None = None, **options: Any) -> Prepared:
        """Prepare a version together with the others; misled by them, once more without (as worker_client does)."""
        try:
            return await self.device.pull(name, origin, version, site=self.access, **options)
        except Misled:
            self.misled += 1
            return await self.device.pull(name, origin, version, site=replace(self.access, fresh=True), **options)

    def _count(self, received: int, sent: int) -> None:
        self.served[0] += received
        self.served[1] += sent


class Site:
    """`count` neighbours below `root`, and `strangers`: addresses of others that they take for neighbours."""

    def __init__(self, root: Path, trust: Path, count: int, strangers: Sequence[str] = (), **access: Any) -> None:
        ports = [free_port() for _ in range(count)]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        self.neighbours = []
        for number, port in enumerate(ports):
            peers = [*addresses[:number], *addresses[number + 1 :], *strangers]
            self.neighbours.append(Neighbour(root / f"device{number}", trust, port, peers, **access))

    async def __aenter__(self) -> list[Neighbour]:
        for neighbour in self.neighbours:
            await neighbour.__aenter__()
        return self.neighbours

    async def __aexit__(self, *error: Any) -> None:
        for neighbour in self.neighbours:
            await neighbour.__aexit__(None, None, None)


async def all_pull(
    neighbours: Sequence[Neighbour], name: str, origin: str, version: int | None = None
) -> list[Prepared]:
    """All at once."""
    return list(await asyncio.gather(*(neighbour.pull(name, origin, version) for neighbour in neighbours)))


def noise(count: int) -> bytes:
    """Bytes that don't compress; another artifact each time."""
    return random.randbytes(count)
