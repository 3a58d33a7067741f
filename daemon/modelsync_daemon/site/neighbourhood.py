"""This device in its site, put together: who the neighbours are, what is served to them, what is kept for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelsync_daemon.config import Settings, parse_listening
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.site.keys import Keys
from modelsync_daemon.site.membership import Membership
from modelsync_daemon.site.server import SiteServer
from modelsync_daemon.transfer.download import Rate
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.origin_secret import Access
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import site
from modelsync_protocol.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from modelsync_daemon.site.discovery import Discovery
    from modelsync_daemon.site.gateway import Gateway

_AGE_SECONDS = 6 * 3600.0
"""A neighbour's copy that nobody has asked for in so long is removed."""

_TIDY_SECONDS = 3600.0
_log = logging.getLogger(__name__)


class Neighbourhood:
    """One device's place in its site; `start` and `stop` once each."""

    def __init__(self, settings: Settings, data: DataDir) -> None:
        self._settings = settings
        self._host, self._port = parse_listening(settings.site_address or "")
        self._spool = Spool(data.root / "site", settings.site_cache_bytes)
        self._folder = str(data.root / "site")
        self._members: Membership | None = None
        self._server: SiteServer | None = None
        self._device: Device | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._rekeying: asyncio.Task[None] | None = None
        self._parent: Gateway | None = None
        self._discovery: Discovery | None = None
        self._rate = Rate(None)
        self._keys = Keys(self._local(self._port), children=settings.site_role == "gateway")

    def access(self) -> SiteAccess | None:
        """How a worker reaches the neighbours; None before `start`, where the twin says so, or names another key."""
        if self._members is None or self._device is None:
            return None
        if self._keys.changed() and (self._rekeying is None or self._rekeying.done()):
            self._rekeying = asyncio.ensure_future(self._rekey())
        policy = self._device.policy().site
        if policy is not None and policy.key and policy.key != self._keys.fingerprint:
            return None  # until what its files hold is in force
        return self._members.access()

    async def start(self, device: Device) -> int:
        """Serve; the port. Raises UsageError for wrong keys, LocalError."""
        self._spool.create()
        context = self._keys.load()
        elsewhere = None
        if self._settings.site_role == "gateway":
            elsewhere = self._gateway(device).answer
        server = SiteServer(self._spool, self._now, device.site_ledger.add, context, elsewhere)
        self._port = await server.start(self._host, self._port)
        self._server, self._device = server, device
        found = self._discover() if self._settings.site_discover else None
        self._members = Membership(
            self._local(self._port), self._settings.site_peers, lambda: device.policy().site, found or frozenset
        )
        await self._members.resolve()
        self._tidying = asyncio.ensure_future(self._tidy_hourly())
        if context is None:
            _log.warning(
                "neighbours are served on port %d without TLS: whoever reaches it may read models.", self._port
            )
        return self._port

    async def stop(self) -> None:
        """Close everything."""
        if self._discovery is not None:
            await self._discovery.stop()
        for task in filter(None, (self._tidying, self._rekeying)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._parent is not None:
            await self._parent.stop()
        if self._server is not None:
            await self._server.stop()

    def _gateway(self, device: Device) -> Gateway:
        from modelsync_daemon.site.gateway import Gateway  # costs memory only where children ask

        settings = self._settings

        def visit() -> Origin:
            closed = device.networks.closed()
            if closed:  # for children too
                raise UnreachableError(closed)
            if self._rate.limit != device.policy().rate_limit:
                self._rate = Rate(device.policy().rate_limit)
            return Origin(
                device.origin() or "",
                settings.origin_ca,
                stall_seconds=settings.stall_seconds,
                rate_limit=self._rate,
                on_traffic=device.ledger.add,
                access=Access(device.secrets()),
                proxy=settings.proxy,
            )

        self._parent = Gateway(self._spool, device.origin, visit, device.site_ledger.add)
        return self._parent

    def _name(self) -> str | None:
        return None if self._members is None else self._members.name()

    def _discover(self) -> Callable[[], frozenset[str]]:
        """Look for neighbours by mDNS; gives their addresses. Raises UsageError where zeroconf is not installed."""
        try:
            from modelsync_daemon.site.discovery import Discovery  # 4 MiB, only where it is wanted
        except ImportError as error:
            raise UsageError(
                "site_discover needs zeroconf, which is not installed: apt install python3-zeroconf."
            ) from error
        self._discovery = Discovery(self._name, self._host, self._port)
        self._discovery.start()
        return self._discovery.found

    def _local(self, port: int) -> SiteAccess:
        settings = self._settings
        cert, key, ca = (str(path or "") for path in (settings.site_cert, settings.site_key, settings.site_ca))
        me = site.address(self._host, port or 1)
        return SiteAccess(settings.site_name, me, (), self._folder, settings.site_cache_bytes, cert, key, ca)

    async def _rekey(self) -> None:
        """Take new keys into use: who has only the old one is out, whatever was open."""
        context = self._keys.reload()
        if context is not None and self._server is not None:
            await self._server.rekey(context)
            if self._members is not None:
                self._members.look_again()
            _log.info("the site's keys were loaded anew.")

    def _now(self) -> tuple[str, str] | None:
        access = self.access()
        return None if access is None else (access.name, access.me)

    async def _tidy_hourly(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            with contextlib.suppress(OSError):
                if self._settings.site_role != "gateway":
                    self._spool.age(_AGE_SECONDS)
            if self._members is not None:
                await self._members.resolve()
