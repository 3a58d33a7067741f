"""Lists of devices: a filter as a condition of the query language, one page at a time. Every value may be hostile."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields

from modelsync_protocol import names
from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard.counting import REPORTED, STATES, UNDER_WAY, heard_since, under_way_since
from modelsync_server.dashboard.text import at, moment, shown
from modelsync_server.rollout.port import FleetHub, Json
from modelsync_server.rollout.target import Target, desired, quoted, reported

PAGE = 50
_MOST_TEXT = 256
_MOST_MODELS = 100
_MAX_WORD = 60
_LAST_OF_AN_ID = "~"
"""Sorts behind every character that a device id may have."""

WHYS: Mapping[str, str] = {
    "trouble": "any error",
    "behind": "serves another version than desired",
    "under-way": "under way",
    "slow": "under way for more than an hour",
    "held": "on hold",
    "state": "rolled back, quarantined or unsupported",
    "nonsense": "reports nonsense",
    "unheard": "never reported it",
    "confused": "does not understand its wishes",
    "unconfined": "its worker is not confined",
}
"""What `why` filters by."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices of a list; empty: all. `version`, `wanted`, `state`, `error` and most of `why` are of `model`.

    `device`: how the id begins. `connected`: yes or no. `silent`: days without a sign. `module`: modules of that name
    instead of devices. `ring`: the configuration of a rollout's ring whose wish was written; `stamp`: the same of Edge
    modules, whose wishes name it.
    """

    model: str = ""
    version: str = ""
    wanted: str = ""
    state: str = ""
    error: str = ""
    why: str = ""
    device: str = ""
    connected: str = ""
    silent: str = ""
    module: str = ""
    ring: str = ""
    stamp: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """From a page's address."""
        return cls(**{each.name: query.get(each.name, "") for each in fields(cls)})

    @property
    def target(self) -> Target:
        """Whose twins are listed."""
        return Target.parse(f"module:{self.module}" if self.module else "device")

    def condition(self, now: float) -> str:
        """As a condition of the query language; UsageError for what can't be one."""
        for each in fields(self):
            if len(getattr(self, each.name)) > _MOST_TEXT:
                raise UsageError(f"{each.name} is longer than {_MOST_TEXT} characters.")
        parts = self._of_model(now) if self.model else self._of_no_model()
        if self.device:
            parts.append(f"deviceId >= {quoted(self.device)} AND deviceId < {quoted(self.device + _LAST_OF_AN_ID)}")
        if self.connected:
            known = {"yes": "Connected", "no": "Disconnected"}
            if self.connected not in known:
                raise UsageError(f"connected is yes or no, not {self.connected!r:.20}.")
            parts.append(f"connectionState = {quoted(known[self.connected])}")
        if self.silent:
            parts.append(f"NOT {heard_since(now, _days(self.silent) * 86400)}")
        if self.ring:
            parts.append(f"configurations.[[{_identifier(self.ring)}]].status = 'Applied'")
        return " AND ".join(parts)

    def _of_no_model(self) -> list[str]:
        for name in ("version", "wanted", "state", "error", "stamp"):
            if getattr(self, name):
                raise UsageError(f"choose a model: {name} is asked of one.")
        if self.why in ("confused", "unconfined"):
            return [_daemons(self.why)]
        if self.why:
            raise UsageError("choose a model: this is asked of one.")
        return []

    def _of_model(self, now: float) -> list[str]:
        base, wish = reported(names.check_model_name(self.model)), desired(self.model)
        parts = []
        if self.version:
            parts.append(f"{base}.version = {_number(self.version)}")
        if self.wanted:
            parts.append(f"{wish}.version = {_number(self.wanted)}")
        if self.state:
            parts.append(f"{base}.state = {quoted(self.state)}")
        if self.error:
            parts.append(f"{base}.error.code = {quoted(self.error)}")
        if self.stamp:
            parts.append(f"{wish}.ring = {quoted(self.stamp)}")
        if self.why:
            parts.append(self._reason(base, wish, now))
        return parts or [f"(is_defined({base}) OR is_defined({wish}))"]

    def _reason(self, base: str, wish: str, now: float) -> str:
        listed = ", ".join(quoted(state) for state in STATES)
        if self.why == "behind":
            if not self.wanted:
                raise UsageError("say which version is desired: who is behind is asked of one.")
            return f"(NOT is_defined({base}.version) OR {base}.version != {_number(self.wanted)})"
        conditions = {
            "trouble": f"is_defined({base}.error.code)",
            "under-way": f"{base}.state IN [{', '.join(quoted(state) for state in UNDER_WAY)}]",
            "slow": under_way_since(self.model, now),
            "held": f"{base}.hold = true",
            "state": f"{base}.state IN ['rolled back', 'quarantined', 'unsupported']",
            "unheard": f"is_defined({wish}.version) AND NOT is_defined({base}.state)",
            # What is no text compares with none; what is one is on the list or not.
            "nonsense": f"is_defined({base}) AND (NOT is_defined({base}.state) OR NOT {base}.state >= ''"
            f" OR NOT {base}.state IN [{listed}] OR is_defined({base}.version) AND NOT {base}.version >= 0)",
        }
        if self.why in conditions:
            return conditions[self.why]
        return _daemons(self.why)


def _daemons(why: str) -> str:
    found = {"confused": f"is_defined({REPORTED}.problems)", "unconfined": f"is_defined({REPORTED}.daemon.unconfined)"}
    if why not in found:
        raise UsageError(f"{why!r:.20} is no reason; take one of {', '.join(WHYS)}.")
    return found[why]


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 16:
        raise UsageError(f"{text!r:.20} is no version: give a number.")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < 10_000:
        raise UsageError(f"{text!r:.20} is no number of days.")
    return days


def _identifier(text: str) -> str:
    if not all(each.isalnum() or each in "-_.:" for each in text):
        raise UsageError(f"{text!r:.40} is no configuration's id.")
    return text


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device in a list."""

    device: str
    connected: bool
    contact: str
    wanted: str
    version: str
    state: str
    since: str
    error: str
    text: str


async def devices(
    hub: FleetHub, wanted: Filter, token: str | None, most: int, now: float
) -> tuple[list[DeviceRow], str | None]:
    """One page of devices, and the token of the next."""
    query = wanted.target.reporters("*", wanted.condition(now) or "*")
    found, following = await hub.query_page(query, page=most, token=token)
    return [_row(each, wanted.model) for each in found], following


async def models_of_some(hub: FleetHub) -> set[str]:
    """Names of models that the first devices of the fleet report or desire."""
    found, _ = await hub.query_page("SELECT * FROM devices", page=PAGE)
    known = set[str]()
    for document in found:
        for half in ("reported", "desired"):
            for name in at(document, "properties", half, "modelsync", "models"):
                with suppress(UsageError):
                    known.add(names.check_model_name(name))
    return set(sorted(known)[:_MOST_MODELS])


def _row(document: Json, model: str) -> DeviceRow:
    models = at(document, "properties", "reported", "modelsync", "models")
    wishes = at(document, "properties", "desired", "modelsync", "models")
    known = sorted({*models, *wishes})
    if not model and len(known) == 1:
        (model,) = known
    of_model = at(models, model) if model else {}
    error = at(of_model, "error")
    version, wish = shown(of_model.get("version"), _MAX_WORD), shown(at(wishes, model).get("version"), _MAX_WORD)
    if not model:
        troubled = [name for name in known if at(models, name, "error")]
        error = at(models, troubled[0], "error") if troubled else {}
        version = ", ".join(f"{shown(name)} {shown(at(models, name).get('version')) or '–'}" for name in known[:4])
        wish = ", ".join(f"{shown(name)} {shown(at(wishes, name).get('version')) or '–'}" for name in list(wishes)[:4])
    return DeviceRow(
        shown(document.get("deviceId")),
        document.get("connectionState") == "Connected",
        moment(document.get("lastActivityTime")),
        wish,
        version,
        shown(of_model.get("state"), _MAX_WORD),
        moment(of_model.get("since")),
        shown(error.get("code"), _MAX_WORD),
        shown(error.get("text")),
    )
