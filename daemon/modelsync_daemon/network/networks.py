"""Which rule of the policy is in force: judged by the interface that leads to the origin, and again when that changes.

Nothing is looked at, and nothing is awake, where there are no rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelsync_daemon.network import network_manager, route
from modelsync_daemon.network.network_manager import Answer
from modelsync_daemon.timing.deadline import within
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.policy.network_rules import NetworkRule

if TYPE_CHECKING:
    from modelsync_daemon.transfer.site_access import SiteAccess

_POLL_SECONDS = 30.0
"""The kernel says when a route changes; that a network became metered, or a neighbour came, has to be asked."""

_RESOLVE_SECONDS, _RESOLVE_AGAIN_SECONDS = 5.0, 30.0
_SOMEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses of nobody (RFC 5737, RFC 3849): the way to them is the way to the Internet. Nothing is sent there."""

_NO_ROUTES = (
    "the kernel can't be asked for routes, so no network is known and nothing is fetched: "
    "allow AF_NETLINK (RestrictAddressFamilies)."
)
_log = logging.getLogger(__name__)


class NetworkChanged(ModelsyncError):
    """Another rule came into force while something was fetched."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The rule that is in force (None: none fits) and what it was judged by; without `interface` nothing leads to the
    origin. What no rule asked for is None."""

    rule: NetworkRule | None = None
    interface: str | None = None
    ssid: str | None = None
    metered: bool | None = None
    neighbour: bool | None = None
    problem: str = ""


@dataclass(eq=False, slots=True)
class _Held:
    rule: NetworkRule | None
    limit: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))


class Networks:
    """One device's networks. `rules` are those of the policy now; `destination` is the URL of the origin or of the
    proxy on the way; `neighbours` how they are reached, `count` is told what asking one cost (bytes both ways)."""

    def __init__(
        self,
        rules: Callable[[], tuple[NetworkRule, ...]],
        destination: Callable[[], str | None] = lambda: None,
        neighbours: Callable[[], SiteAccess | None] = lambda: None,
        count: Callable[[int, int], None] = lambda received, sent: None,
        ask: Callable[[str], Awaitable[Answer]] = network_manager.ask,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self._rules, self._destination, self._neighbours, self._count = rules, destination, neighbours, count
        self._ask, self._poll = ask, poll_seconds
        self._looking = asyncio.Lock()
        self._held: list[_Held] = []
        self._host, self._again = "", 0.0
        self._addresses: tuple[str, ...] = ()
        self._place: tuple[str, str | None] | None = None
        self.moved: Callable[[], None] = lambda: None
        """Called when this device speaks from another place than before: what was connected there is dead."""
        self.now: Standing | None = None
        self.since = 0.0

    def __bool__(self) -> bool:
        """Whether there are rules."""
        return bool(self._rules())

    @property
    def rule(self) -> NetworkRule | None:
        """The rule in force, as last judged."""
        return None if self.now is None else self.now.rule

    def name(self) -> str:
        """What bytes are counted under now; empty: under nothing."""
        return "" if self.rule is None else self.rule.name

    def closed(self) -> str:
        """Why nothing may be fetched on this network, in a sentence; empty if it may."""
        if not self:
            return ""
        now = self.now or Standing()
        if now.interface is None:
            return now.problem or "no network leads to the origin now; it waits for one."
        if now.rule is not None and not now.rule.downloads:
            return f"the network rule {now.rule.name} ({now.interface}) allows no downloads; it waits for another one."
        return ""

    async def look(self) -> bool:
        """Judge anew; True if another rule is in force, or a network came or went."""
        async with self._looking:
            rules, place = self._rules(), self._place
            before, self.now = self.now, await self._judge(rules) if rules else None
        if place is not None and place != self._place:
            self.moved()
        if _matters(before) == _matters(self.now):
            return False
        self.since = time.time()
        if self.now is not None:
            _log.info("network rule %s on %s", self.name() or "none", self.now.interface or "no interface")
            if self.now.problem and (before is None or before.problem != self.now.problem):
                _log.warning("%s", self.now.problem)
        if self.now is None or self.now.interface is not None:  # a gap says nothing of what comes after it
            for held in self._held:
                if held.rule != self.rule:
                    held.limit.reschedule(asyncio.get_running_loop().time())
        return True

    @contextlib.asynccontextmanager
    async def unchanged(self) -> AsyncIterator[None]:
        """End what is awaited inside, with NetworkChanged, when another rule comes into force."""
        held = _Held(self.rule)
        try:
            async with held.limit:
                self._held.append(held)
                try:
                    yield
                finally:
                    self._held.remove(held)
        except TimeoutError:
            if not held.limit.expired():
                raise
            raise NetworkChanged("the network changed while fetching; it goes on as the new one allows.") from None

    async def watch(self, changed: Callable[[], None], *, waiting: bool) -> None:
        """Until cancelled, judge anew when the kernel's routes change; while something is `waiting` and a rule asks for
        more, now and then too. `changed` is called when `look` finds another rule."""
        with contextlib.ExitStack() as stack:
            changes = None
            with contextlib.suppress(OSError):
                changes = stack.enter_context(route.Changes())
            while True:
                more = any(rule.asks_network_manager or rule.neighbour is not None for rule in self._rules())
                seconds = self._poll if waiting and (more or changes is None) else None
                with contextlib.suppress(TimeoutError):
                    await within(seconds, asyncio.Event().wait() if changes is None else changes.wait())
                    self._again = 0.0  # another network may have another name server
                if await self.look():
                    changed()

    def document(self) -> dict[str, Any] | None:
        """The rule in force and what it was judged by, as the status shows it; None without rules."""
        if not self:
            return None
        now = self.now or Standing()
        return {
            "rule": self.name() or None,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since)) if self.since else None,
            **{key: getattr(now, key) for key in ("interface", "ssid", "metered", "neighbour")},
            **({"problem": now.problem} if now.problem else {}),
        }

    async def _judge(self, rules: tuple[NetworkRule, ...]) -> Standing:
        try:
            interface = await self._interface()
        except OSError:
            return Standing(problem=_NO_ROUTES)
        if interface is None:
            return Standing()
        answer, neighbour, found = None, None, None
        for rule in rules:
            if rule.interface and not any(fnmatchcase(interface, pattern) for pattern in rule.interface):
                continue
            if rule.asks_network_manager:
                answer = answer or await self._ask(interface)
                if rule.ssid and answer.ssid not in rule.ssid:
                    continue
                if rule.metered is not None and answer.metered is not rule.metered:
                    continue
            if rule.neighbour is not None:
                if neighbour is None:
                    neighbour = await self._reachable()
                if neighbour is not rule.neighbour:
                    continue
            found = rule
            break
        answer = answer or Answer()
        return Standing(found, interface, answer.ssid, answer.metered, neighbour, answer.problem)

    async def _interface(self) -> str | None:
        """The interface by which the origin is reached; OSError if the kernel can't be asked."""
        for ip in (*await self._resolved(), *_SOMEWHERE):
            found = route.lookup(ip)
            if found is not None:
                self._place = found.interface, route.source(ip)
                return found.interface
        return None

    async def _resolved(self) -> tuple[str, ...]:
        """The origin's addresses, first the one that a connection tries first; none if it has no usable name.

        A name is looked up once, and again after a change of the network, for each time costs bytes. Where it can't be,
        what it was before still tells the way.
        """
        try:
            host = urlsplit(self._destination() or "").hostname or ""
        except ValueError:
            host = ""
        with contextlib.suppress(ValueError):
            return (str(ipaddress.ip_address(host.partition("%")[0])),)
        if not host:
            return ()
        loop = asyncio.get_running_loop()
        if self._host != host:
            self._host, self._addresses, self._again = host, (), 0.0
        if self._again <= loop.time():
            self._again = loop.time() + _RESOLVE_AGAIN_SECONDS
            with contextlib.suppress(OSError, TimeoutError, UnicodeError):
                found = await within(_RESOLVE_SECONDS, loop.getaddrinfo(host, None, type=socket.SOCK_STREAM))
                self._addresses = tuple(str(entry[4][0]).partition("%")[0] for entry in found)
                self._again = math.inf
        return self._addresses

    async def _reachable(self) -> bool:
        access = self._neighbours()
        if access is None or not access.peers:
            return False
        from modelsync_daemon.transfer.neighbours import anybody  # only devices with neighbours carry it

        return await anybody(access, self._count)


def _matters(standing: Standing | None) -> tuple[object, ...]:
    """What of a standing decides anything."""
    if standing is None:
        return ()
    return standing.rule, standing.interface is None, standing.problem
