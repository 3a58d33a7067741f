"""A twin's policy: budgets, times of day, neighbours, rules by network. Reading never raises. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from modelsync_protocol import caps, names
from modelsync_protocol.policy.network_rules import UNREADABLE, NetworkRule, parse_rules
from modelsync_protocol.policy.windows import NEVER, Window, parse_window

MAX_PEERS = 64
"""Neighbours that a device knows, at the most."""

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PEER = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What the twin says of a device's neighbours: who they are (`host:port`), the site's name, the SHA-256 of its CA
    certificate, or that there are none (`off`). Empty: what the device's settings say."""

    peers: tuple[str, ...] = ()
    name: str = ""
    key: str = ""
    off: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a device's use of the network; None and () mean no limit. Budgets in bytes, rate in bytes/s."""

    bytes_per_day: int | None = None
    bytes_per_month: int | None = None
    rate_limit: int | None = None
    windows: tuple[Window, ...] = ()
    hold: bool = False
    site: SitePolicy | None = None
    networks: tuple[NetworkRule, ...] = ()


def check_site_name(name: object) -> str:
    """Return a site's name, or raise ValueError."""
    if not isinstance(name, str) or not _SITE_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is not a site's name: use 1 to 63 letters, digits, '.', '_' and '-'.")
    return name


def is_peer(value: object) -> bool:
    """Whether this is a neighbour's `host:port`."""
    return isinstance(value, str) and _PEER.fullmatch(value) is not None


class PolicyReader:
    """Reads a policy; `complain(path, sentence)` is told of what is wrong, which is left out."""

    def __init__(self, complain: Callable[[str, str], None]) -> None:
        self._complain = complain

    def policy(self, value: object) -> Policy:
        """What can be read of it."""
        if not isinstance(value, Mapping):
            if value is not None:
                self._complain("policy", "is not an object.")
            return Policy()
        known = [field.name for field in fields(Policy)]
        for key in sorted(map(str, value.keys() - set(known))):
            self._complain(f"policy/{key}", f"is no key of a policy; these are: {', '.join(known)}.")
        hold = value.get("hold")
        if hold is not None and type(hold) is not bool:
            self._complain("policy/hold", "is neither true nor false.")
            hold = None
        return Policy(
            bytes_per_day=self._amount("policy/bytes_per_day", value.get("bytes_per_day"), 0),
            bytes_per_month=self._amount("policy/bytes_per_month", value.get("bytes_per_month"), 0),
            rate_limit=self._amount("policy/rate_limit", value.get("rate_limit"), 1),
            windows=self._windows(value.get("windows")),
            hold=bool(hold),
            site=self._site(value.get("site")),
            networks=self._networks(value.get("networks")),
        )

    def _site(self, value: object) -> SitePolicy | None:
        """What can be read of it. A wrong list of neighbours, name or key keeps all out: a site is a convenience."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._complain("policy/site", 'is not an object such as {"peers":["10.0.0.2:8444"]}.')
            return SitePolicy(off=True)
        known = [field.name for field in fields(SitePolicy)]
        for extra in sorted(map(str, value.keys() - set(known))):
            self._complain(f"policy/site/{extra}", f"is no key of a site; these are: {', '.join(known)}.")
        peers, name, key, off = (value.get(word) for word in ("peers", "name", "key", "off"))
        if peers is not None and not (isinstance(peers, list) and len(peers) <= MAX_PEERS and all(map(is_peer, peers))):
            self._complain("policy/site/peers", f'is not a list of at most {MAX_PEERS} such as ["10.0.0.2:8444"].')
            off = True
        if name is not None:
            try:
                check_site_name(name)
            except ValueError as error:
                self._complain("policy/site/name", str(error))
                off = True
        if key is not None and not names.is_digest(key):
            self._complain("policy/site/key", "is not the SHA-256 of a certificate in lower-case hex.")
            off = True
        if off not in (None, True, False):
            self._complain("policy/site/off", "is neither true nor false.")
            off = True
        if off:
            return SitePolicy(off=True)
        return SitePolicy(tuple(map(str, peers or ())), str(name or ""), str(key or ""))

    def _amount(self, path: str, value: object, lowest: int) -> int | None:
        if value is None:
            return None
        if type(value) is not int or not lowest <= value <= caps.MAX_TWIN_INTEGER:
            self._complain(path, f"{value!r:.40} is not a whole number of bytes from {lowest}.")
            return None
        return value

    def _windows(self, value: object) -> tuple[Window, ...]:
        """The windows that can be read. Where some were meant and none can be, none is open: bytes cost money."""
        if value is None or value == []:
            return ()
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            self._complain("policy/windows", 'is not a list such as ["22:00-06:00"].')
            return (NEVER,)
        windows = []
        for item in items:
            try:
                windows.append(parse_window(item))
            except ValueError as error:
                self._complain("policy/windows", str(error))
        return tuple(windows) or (NEVER,)

    def _networks(self, value: object) -> tuple[NetworkRule, ...]:
        """The rules, all or none: where some were meant and one can't be read, nothing is fetched anywhere."""
        try:
            return parse_rules(value)
        except ValueError as error:
            self._complain("policy/networks", str(error))
            return (UNREADABLE,)
