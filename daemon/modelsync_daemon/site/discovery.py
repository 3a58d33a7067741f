"""Neighbours found by themselves: DNS-SD over multicast DNS (RFC 6762, 6763), by zeroconf, imported only in this file.

An announcement holds address, port and the site's name, and is believed as little as a list: it says whom to ask. What
anybody on the network may announce is bounded here. Only IPv4; nothing is announced where a line costs money.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ifaddr
from zeroconf import IPVersion, NonUniqueNameException, RecordUpdate, RecordUpdateListener, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from modelsync_daemon.network import route
from modelsync_protocol import site
from modelsync_protocol.twin import MAX_PEERS

SERVICE = "_modelsync._tcp.local."
TTL_SECONDS = 4500
"""How long an announcement is believed (RFC 6762 §10: 75 minutes). It is refreshed after three quarters of that."""

_NAME_KEY = b"site"
_QUERY_MILLISECONDS = 60_000
"""Two queries of one device are at least so far apart, once it has found its feet."""

_MOST_RECORDS = 4096
"""After so many new records of anybody everything is forgotten, and begun anew: zeroconf's memory has no bound."""

_CALM_SECONDS = 3600.0
"""If that happens sooner than this it is a flood, ..."""

_PAUSE_SECONDS = 600.0
"""... and nothing is listened to for so long."""

_MOST_ASKED, _ASK_MILLISECONDS = 4, 3000
"""Announcements that don't say all are asked about, so many at a time; what comes meanwhile is left out."""

_LEAST_SESSION_SECONDS = 5.0
_SIOCGIFFLAGS = 0x8913
_UP, _BROADCAST, _LOOPBACK, _POINT_TO_POINT, _RUNNING, _NO_ARP, _MULTICAST = 0x1, 0x2, 0x8, 0x10, 0x40, 0x80, 0x1000
_WANTED = _UP | _BROADCAST | _RUNNING | _MULTICAST
_LINES = ("wwan", "ppp", "rmnet", "tun", "wg")
"""Interfaces that are a line, whatever their driver says of them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    site: str
    address: str


class Discovery:
    """Announces this device while `name` gives its site's name, and keeps who else is announced. `host`: where it
    serves, `0.0.0.0` for every network that it is in."""

    def __init__(self, name: Callable[[], str | None], host: str, port: int, ttl: int = TTL_SECONDS) -> None:
        self._name, self._host, self._port, self._ttl = name, host, port, ttl
        self._announced: str | None = None
        self._found: dict[str, _Found] = {}
        self._interfaces: dict[str, str] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._records = 0
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; what is found comes later."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Say goodbye."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def found(self) -> frozenset[str]:
        """Addresses of this site's devices, this one's among them; nobody's of another site."""
        name = self._name()
        if name != self._announced:
            self._again.set()
        return frozenset(each.address for each in self._found.values() if each.site == name)

    async def _run(self) -> None:
        """One session after the other: each ends when another network, another name or too much comes."""
        with contextlib.ExitStack() as stack:
            changes = None
            with contextlib.suppress(OSError):
                changes = stack.enter_context(route.Changes())
            watching = asyncio.ensure_future(self._watch(changes)) if changes is not None else None
            try:
                while True:
                    self._again.clear()
                    self._announced, self._interfaces = self._name(), usable_interfaces(self._host)
                    began, self._records = time.monotonic(), 0
                    if self._announced is not None and self._interfaces:
                        try:
                            await self._session(self._announced)
                        except (OSError, NonUniqueNameException) as error:
                            _log.warning("neighbours are not looked for (%s); it is tried again.", error)
                            await asyncio.sleep(_PAUSE_SECONDS)
                    else:
                        await self._again.wait()
                    lasted = time.monotonic() - began
                    if self._records >= _MOST_RECORDS and lasted < _CALM_SECONDS:
                        _log.warning("mDNS is flooded; neighbours are not looked for, for %.0f s.", _PAUSE_SECONDS)
                        await asyncio.sleep(_PAUSE_SECONDS)
                    await asyncio.sleep(max(0.0, _LEAST_SESSION_SECONDS - lasted))
            finally:
                if watching is not None:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, changes: route.Changes) -> None:
        while True:
            await changes.wait()
            if usable_interfaces(self._host) != self._interfaces:
                self._again.set()

    async def _session(self, name: str) -> None:
        addresses = sorted(self._interfaces.values())
        self._found = {}
        opened = AsyncZeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
        try:
            label = hashlib.sha256(f"{addresses} {self._port}".encode()).hexdigest()[:12]
            info = AsyncServiceInfo(
                SERVICE,
                f"{label}.{SERVICE}",
                port=self._port,
                server=f"modelsync-{label}.local.",
                addresses=[socket.inet_aton(address) for address in addresses],
                properties={_NAME_KEY: name.encode()},
                host_ttl=self._ttl,
                other_ttl=self._ttl,
            )
            opened.zeroconf.add_listener(_Counter(self._count), None)
            await (await opened.async_register_service(info, allow_name_change=True))
            browser = AsyncServiceBrowser(
                opened.zeroconf, SERVICE, handlers=[self._on_change], delay=_QUERY_MILLISECONDS
            )
            try:
                await self._again.wait()
            finally:
                await browser.async_cancel()
        finally:
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)
            await opened.async_close()

    def _count(self, new: int) -> None:
        self._records += new
        if self._records >= _MOST_RECORDS:
            self._again.set()

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._take(name, info)
        elif len(self._asked) < _MOST_ASKED:
            task = asyncio.ensure_future(self._ask(zeroconf, name, info))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _ask(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, _ASK_MILLISECONDS):
            self._take(name, info)

    def _take(self, name: str, info: AsyncServiceInfo) -> None:
        """Keep an announcement, if it is one of a device of this site, on a network that this device is in."""
        named = info.properties.get(_NAME_KEY)
        address = self._on_link(info.parsed_addresses(IPVersion.V4Only), info.port or 0)
        self._found.pop(name, None)
        mine = named is not None and self._announced is not None and named == self._announced.encode()
        if mine and self._announced and address is not None and len(self._found) < MAX_PEERS:
            self._found[name] = _Found(self._announced, address)

    def _on_link(self, addresses: Iterable[str], port: int) -> str | None:
        """The first of a device's addresses reached without a gateway: all of a network choose alike."""
        for ip in sorted(addresses)[:MAX_PEERS]:
            with contextlib.suppress(OSError, ValueError):
                own = ip in self._interfaces.values()
                way = None if own else route.lookup(ip)
                if 0 < port <= 65535 and (own or (way and way.on_link and way.interface in self._interfaces)):
                    return site.address(ip, port)
        return None


class _Counter(RecordUpdateListener):
    """Counts what is new in zeroconf's memory."""

    def __init__(self, count: Callable[[int], None]) -> None:
        super().__init__()
        self._count = count

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Of one packet."""
        self._count(sum(record.old is None for record in records))

    def async_update_records_complete(self) -> None:
        """Nothing."""


def usable_interfaces(host: str) -> dict[str, str]:
    """Names and IPv4 addresses of the networks that neighbours may be in: no loopback, no line, none that is down."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        for adapter in ifaddr.get_adapters():
            addresses = sorted(ip.ip for ip in adapter.ips if isinstance(ip.ip, str))
            name = str(adapter.nice_name)
            if not addresses or name.startswith(_LINES) or host not in ("0.0.0.0", *addresses):
                continue
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode()[:15], 0))
                flags = struct.unpack_from("H", answer, 16)[0]
                if flags & _WANTED == _WANTED and not flags & (_LOOPBACK | _POINT_TO_POINT | _NO_ARP):
                    found[name] = host if host in addresses else addresses[0]
    return found
