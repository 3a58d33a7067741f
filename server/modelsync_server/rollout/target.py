"""What a rollout writes to, and how the hub's query language speaks of it: devices, modules, Edge modules. Pure.

Only what Azure documents for twin queries is used: comparisons, AND, OR, NOT, IN, is_defined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from modelsync_protocol import twin
from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.identity import Identity

EVERYONE = "*"
_PLAIN = re.compile(r"[A-Za-z_]\w*")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
WORKING = (
    "idle",
    "resolving",
    "planning",
    "fetching",
    "assembling",
    "probing",
    "activating",
    "probation",
)
"""Reported states of a device that is on its way, or has not begun."""


class Kind(StrEnum):
    """Whose desired properties are written."""

    DEVICE = "device"
    MODULE = "module"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Target:
    """Devices; or modules of one name, chosen by their own tags; or Edge modules, chosen by their devices' tags."""

    kind: Kind = Kind.DEVICE
    module: str | None = None

    def __post_init__(self) -> None:
        if (self.kind is Kind.DEVICE) != (self.module is None):
            raise UsageError("a rollout to modules names the module, one to devices names none.")
        if self.module is not None:
            Identity("any", self.module)

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read what `str` writes."""
        kind, _, module = text.partition(":")
        try:
            return cls(Kind(kind), module or None)
        except ValueError:
            raise UsageError(f"{text!r:.80} is no target of a rollout.") from None

    def __str__(self) -> str:
        return self.kind.value if self.module is None else f"{self.kind.value}:{self.module}"

    @property
    def members_are_modules(self) -> bool:
        """Whether rings choose module twins (by the modules' tags)."""
        return self.kind is Kind.MODULE

    @property
    def reporters_are_modules(self) -> bool:
        """Whether it is modules that report how it went."""
        return self.kind is not Kind.DEVICE

    @property
    def _own(self) -> str:
        return f"moduleId = {quoted(self.module or '')}"

    def members(self, columns: str, where: str) -> str:
        """A query over the twins that rings choose."""
        if self.members_are_modules:
            return select(columns, "devices.modules", both(self._own, where))
        return select(columns, "devices", where)

    def reporters(self, columns: str, where: str) -> str:
        """A query over the twins that report."""
        if self.reporters_are_modules:
            return select(columns, "devices.modules", both(self._own, where))
        return select(columns, "devices", where)

    @property
    def ids(self) -> str:
        """The columns that name a member."""
        return "deviceId, moduleId" if self.members_are_modules else "deviceId"

    def condition(self, where: str) -> str:
        """A configuration's target condition."""
        if self.kind is not Kind.MODULE:
            return where
        return f"FROM devices.modules WHERE {both(self._own, where)}"

    def content(self, model: str, wish: dict[str, Any]) -> dict[str, Any]:
        """A configuration's content that makes `wish` the desired state of a model."""
        section = {f"properties.desired.{twin.SECTION}.models.{model}": wish}
        if self.kind is Kind.EDGE:
            return {"modulesContent": {self.module: section}}
        return {"moduleContent" if self.kind is Kind.MODULE else "deviceContent": section}

    def asked(self, configuration: str, model: str, stamp: str) -> str:
        """The condition that a reporting twin was given a ring's wish.

        Edge deployments leave their status at `$edgeAgent`, so there the wish itself says which ring it came from.
        """
        if self.kind is Kind.EDGE:
            return f"properties.desired.{twin.SECTION}.models.{step(model)}.ring = {quoted(stamp)}"
        return f"configurations.[[{configuration}]].status = 'Applied'"

    def wish(self, version: int, stamp: str) -> dict[str, Any]:
        """What a ring's configuration desires."""
        return {"version": version, "ring": stamp} if self.kind is Kind.EDGE else {"version": version}


def reported(model: str) -> str:
    """The path of what a twin reports of a model."""
    return f"properties.reported.{twin.SECTION}.models.{step(model)}"


def desired(model: str) -> str:
    """The path of what a twin desires of a model."""
    return f"properties.desired.{twin.SECTION}.models.{step(model)}"


def step(name: str) -> str:
    """One step of a path in the query language."""
    return name if _PLAIN.fullmatch(name) else f"[[{name}]]"


def quoted(text: str) -> str:
    """A string literal of the query language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def both(*conditions: str) -> str:
    """All of these conditions; those that hold for everyone are left out."""
    left = [f"({each})" if _OR.search(each) else each for each in conditions if each not in ("", EVERYONE)]
    return " AND ".join(left) or EVERYONE


def either(conditions: list[str]) -> str:
    """Any of these conditions; everyone if one holds for everyone."""
    if EVERYONE in conditions:
        return EVERYONE
    return conditions[0] if len(conditions) == 1 else " OR ".join(f"({each})" for each in conditions)


def select(columns: str, source: str, where: str) -> str:
    """A query; `where` may be EVERYONE."""
    return f"SELECT {columns} FROM {source}" + ("" if where == EVERYONE else f" WHERE {where}")


METRICS = ("asked", "active", "waiting", "refused", "rolled_back")


def metrics(target: Target, model: str, version: int, asked: str) -> dict[str, str]:
    """The five counts behind a gate, which are all that a configuration takes. What is asked and none of the others
    failed, or can't run the version (recount.py): nonsense is no excuse."""
    found = conditions(target, model, version, asked)
    ids = "deviceId, moduleId" if target.reporters_are_modules else "deviceId"
    metrics = {name: target.reporters(ids, found[name]) for name in METRICS}
    return {**metrics, "waiting": metrics["waiting"].replace(_LATE, _LATE_BEFORE)}


_LATE = "['quarantined', 'rolled back', 'waiting', 'unsupported']"
_LATE_BEFORE = "['quarantined', 'rolled back', 'waiting']"
"""As the metrics of open rings say it: they must stay what they are, or a hand seems to have changed them."""


def conditions(target: Target, model: str, version: int, asked: str) -> dict[str, str]:
    """Which reporting twins belong to which count of a gate."""
    at = reported(model)
    about = f"(NOT is_defined({at}.desired) OR {at}.desired = {version})"
    other = f"({at}.desired < {version} OR {at}.desired > {version})"
    working = ", ".join(quoted(state) for state in WORKING)
    waiting = (
        f"(NOT is_defined({at}) OR {at}.state IN [{working}]"
        f" OR {at}.state = 'waiting' AND (NOT is_defined({at}.error.code) OR {at}.error.code != 'refused')"
        f" OR {at}.state = 'active' AND ({at}.version < {version} OR {at}.version > {version})"
        f" OR {at}.state IN {_LATE} AND {other})"
    )
    refused = f"({at}.state = 'quarantined' OR {at}.state = 'waiting' AND {at}.error.code = 'refused')"
    return {
        "asked": asked,
        "active": f"{asked} AND {at}.version = {version} AND {at}.state = 'active'",
        "waiting": f"{asked} AND {waiting}",
        "refused": f"{asked} AND {refused} AND {about}",
        "rolled_back": f"{asked} AND {at}.state = 'rolled back' AND {about}",
        "unsupported": f"{asked} AND {at}.state = 'unsupported' AND {about}",
    }
