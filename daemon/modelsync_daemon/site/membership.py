"""Which devices are neighbours, and which address among theirs is this device's. It sends nothing but DNS queries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable

from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import site
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_protocol.twin import MAX_PEERS, SitePolicy

_KNOWN_SECONDS = 60.0
"""An interface may come or go: which address is ours is looked at again so often."""

_log = logging.getLogger(__name__)


class Membership:
    """Keeps the neighbours' addresses. `local` is what the settings say; the twin's word (`policy`) goes before it.

    `found` gives addresses that were discovered besides.
    """

    def __init__(
        self,
        local: SiteAccess,
        peers: tuple[str, ...],
        policy: Callable[[], SitePolicy | None] = lambda: None,
        found: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self._local, self._peers, self.policy, self._found = local, peers, policy, found
        self._names: dict[str, str | None] = {}
        self._told = ""
        self._known: tuple[object, SiteAccess | None] | None = None
        self._known_until = 0.0

    def access(self) -> SiteAccess | None:
        """How a worker reaches the neighbours now; None if this device is to do without."""
        policy, found = self.policy(), frozenset(self._found())
        asked = (policy, found, tuple(self._names.items()))
        if self._known is None or self._known[0] != asked or time.monotonic() > self._known_until:
            self._known, self._known_until = (asked, self._access(policy, found)), time.monotonic() + _KNOWN_SECONDS
        return self._known[1]

    def _access(self, policy: SitePolicy | None, found: frozenset[str]) -> SiteAccess | None:
        if policy is not None and (policy.off or not self._has_key(policy)):
            return None
        wanted = policy.peers if policy is not None and policy.peers else self._peers
        listed = {address for name in wanted if (address := self._address(name)) is not None}
        own = self._own(listed | found)
        # Those who were named go before those who named themselves.
        others = tuple(sorted(listed - {own}))[:MAX_PEERS]
        others += tuple(sorted(found - listed - {own}))[: MAX_PEERS - len(others)]
        local = self._local
        return SiteAccess(self._name(policy), own, others, local.folder, local.quota, local.cert, local.key, local.ca)

    def name(self) -> str | None:
        """The site's name; None if this device is to do without."""
        policy = self.policy()
        if policy is not None and (policy.off or not self._has_key(policy)):
            return None
        return self._name(policy)

    def _name(self, policy: SitePolicy | None) -> str:
        return policy.name if policy is not None and policy.name else self._local.name

    def look_again(self) -> None:
        """The site's key is another one now."""
        self._known = None

    async def resolve(self) -> None:
        """Look up neighbours that are given by name."""
        policy = self.policy()
        for name in {*self._peers, *(policy.peers if policy is not None else ())}:
            with contextlib.suppress(FormatError):
                self._names[name] = site.parse_address(name)
                continue
            host, _, port = name.rpartition(":")
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
                self._names[name] = site.address(str(found[0][4][0]), int(port))
            except (OSError, ValueError):
                self._names.setdefault(name, None)
                _log.warning("the neighbour %s is not known to the name server; it is left out.", name)

    def _address(self, name: str) -> str | None:
        if name not in self._names:
            with contextlib.suppress(FormatError):
                self._names[name] = site.parse_address(name)
        return self._names.get(name)

    def _has_key(self, policy: SitePolicy) -> bool:
        """Whether this device has the site's key that the twin names: a leaked one is given up by naming another."""
        if not policy.key:
            return True
        try:
            own = self._local.fingerprint()
        except UsageError as error:
            own = str(error)
        if own == policy.key:
            return True
        if self._told != policy.key:
            self._told = policy.key
            _log.warning(
                "the site's key is another one (%s…) than this device has; it does without neighbours.", policy.key[:12]
            )
        return False

    def _own(self, peers: Iterable[str]) -> str:
        """This device's address as the others know it: the one of theirs that is ours, else where we'd speak from."""
        host, _, port = self._local.me.rpartition(":")
        host = host.strip("[]")
        for peer in sorted(peers):
            if peer.rpartition(":")[2] == port and _is_ours(peer):
                return peer
        if host not in ("0.0.0.0", "::"):
            return self._local.me
        for peer in sorted(peers):
            with contextlib.suppress(OSError):
                return site.address(_source(peer), int(port))
        return site.address("127.0.0.1", int(port))


def _is_ours(peer: str) -> bool:
    host = peer.rpartition(":")[0].strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _source(peer: str) -> str:
    host, _, port = peer.rpartition(":")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # sends nothing
        return str(probe.getsockname()[0])
