"""Rules of a policy that hold on some networks only: which networks, and what they give. No I/O here.

The rules are in order, and the first whose conditions all hold is in force. What can't be read makes the whole list
unreadable: a rule that is left out would hand its network to a wider one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from modelsync_protocol import caps
from modelsync_protocol.policy.windows import Window, parse_window

MAX_RULES = 16
"""Rules of one policy."""

MAX_CHOICES = 16
"""Interfaces or SSIDs of one rule."""

MAX_SSID_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_INTERFACE = re.compile(r"[A-Za-z0-9._:@*?\[\]!-]{1,32}")


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """One rule. Conditions: `interface` (globs) and `ssid` (one of each has to fit), `metered`, `neighbour` (one can be
    reached, or none can); none of them: every network. What it gives: no `downloads` at all, the bytes that an update
    may still lack (`max_update_bytes`), budgets of bytes on such networks, bytes a second, times of day."""

    name: str
    interface: tuple[str, ...] = ()
    ssid: tuple[str, ...] = ()
    metered: bool | None = None
    neighbour: bool | None = None
    downloads: bool = True
    max_update_bytes: int | None = None
    bytes_per_day: int | None = None
    bytes_per_month: int | None = None
    rate_limit: int | None = None
    windows: tuple[Window, ...] = ()

    @property
    def asks_network_manager(self) -> bool:
        """Whether only NetworkManager can say that it fits."""
        return bool(self.ssid) or self.metered is not None


_KEYS = tuple(field.name for field in fields(NetworkRule))
UNREADABLE = NetworkRule("", downloads=False)
"""Stands for a list that can't be read: bytes cost money, so nothing is fetched."""


def parse_rules(value: object) -> tuple[NetworkRule, ...]:
    """Read a list of rules; raises ValueError with a sentence that names the rule."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > MAX_RULES:
        raise ValueError(f'is not a list of at most {MAX_RULES} rules such as {{"name":"lte","interface":"wwan*"}}.')
    rules: list[NetworkRule] = []
    for number, item in enumerate(value, 1):
        rule = _rule(item, number)
        if any(rule.name == other.name for other in rules):
            raise ValueError(f"two rules are called {rule.name}; bytes are counted by name.")
        rules.append(rule)
    return tuple(rules)


def _rule(value: object, number: int) -> NetworkRule:
    if not isinstance(value, Mapping):
        raise ValueError(f'rule {number} is not an object such as {{"name":"lte","interface":"wwan*"}}.')
    name = value.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"rule {number} needs a name of 1 to 32 letters, digits, '.', '_' and '-'.")
    unknown = sorted(map(str, value.keys() - set(_KEYS)))
    if unknown:
        raise ValueError(f"{name} has {unknown[0]!r:.40}, which is no key of a rule; these are: {', '.join(_KEYS)}.")
    downloads = _truth(name, "downloads", value.get("downloads"))
    return NetworkRule(
        name,
        interface=_choices(name, "interface", value.get("interface"), _is_interface, "eth0 or wwan*"),
        ssid=_choices(name, "ssid", value.get("ssid"), _is_ssid, "DEPOT"),
        metered=_truth(name, "metered", value.get("metered")),
        neighbour=_truth(name, "neighbour", value.get("neighbour")),
        downloads=downloads is not False,
        max_update_bytes=_amount(name, "max_update_bytes", value.get("max_update_bytes"), 0),
        bytes_per_day=_amount(name, "bytes_per_day", value.get("bytes_per_day"), 0),
        bytes_per_month=_amount(name, "bytes_per_month", value.get("bytes_per_month"), 0),
        rate_limit=_amount(name, "rate_limit", value.get("rate_limit"), 1),
        windows=_windows(name, value.get("windows")),
    )


def _is_interface(text: str) -> bool:
    return _INTERFACE.fullmatch(text) is not None


def _is_ssid(text: str) -> bool:
    return 0 < len(text.encode("utf-8", "surrogateescape")) <= MAX_SSID_BYTES


def _choices(name: str, key: str, value: object, fits: Callable[[str], bool], such: str) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if isinstance(items, list | tuple) and 0 < len(items) <= MAX_CHOICES:
        texts = [item for item in items if isinstance(item, str) and fits(item)]
        if len(texts) == len(items):
            return tuple(texts)
    raise ValueError(f"{name}: {key} is not a name such as {such}, or a list of at most {MAX_CHOICES}.")


def _truth(name: str, key: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{name}: {key} is neither true nor false.")


def _amount(name: str, key: str, value: object, lowest: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not lowest <= value <= caps.MAX_TWIN_INTEGER:
        raise ValueError(f"{name}: {key} = {value!r:.40} is not a whole number of bytes from {lowest}.")
    return value


def _windows(name: str, value: object) -> tuple[Window, ...]:
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError(f'{name}: windows is not a list such as ["22:00-06:00"].')
    try:
        return tuple(map(parse_window, items))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
