"""What the pages ask the hub: grouped counts, a page of devices, one device. Every value is a report, and hostile.

A count costs one query whatever the fleet's size; lists come in pages with the hub's own continuation token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import names, twin
from modelsync_protocol.errors import UsageError
from modelsync_server.rollout.port import FleetHub, Json, rows
from modelsync_server.rollout.target import reported as path_of

REPORTED = "properties.reported.modelsync"
PAGE = 50
_MAX_TEXT = 300
STATES = (
    "idle", "resolving", "planning", "fetching", "verifying", "staged", "probing", "activating", "probation", "active",
    "waiting", "rolled back", "quarantined",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """So many devices report this; `value` is cut to a sane text."""

    value: str
    devices: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices of a list; empty: all. `version` is of `model`, `error` a code."""

    model: str = ""
    version: str = ""
    state: str = ""
    error: str = ""
    device: str = ""

    def condition(self) -> str:
        """As a condition of the query language; UsageError for what can't be one."""
        parts = []
        if self.model:
            names.check_model_name(self.model)
            base = path_of(self.model)
            if self.version:
                if not self.version.isdecimal() or len(self.version) > 16:
                    raise UsageError(f"{self.version!r:.20} is no version: give a number.")
                parts.append(f"{base}.version = {int(self.version)}")
            if self.state:
                parts.append(f"{base}.state = {quoted(self.state)}")
            if self.error:
                parts.append(f"{base}.error.code = {quoted(self.error)}")
            if not parts:
                parts.append(f"is_defined({base})")
        if self.device:
            parts.append(f"STARTSWITH(deviceId, {quoted(self.device)})")
        return " AND ".join(parts)


@dataclass(frozen=True, slots=True)
class Groups:
    """How a model's devices divide, each way; most first. `without`: devices that report nothing of it."""

    versions: tuple[Group, ...]
    states: tuple[Group, ...]
    errors: tuple[Group, ...]
    without: int


async def grouped(hub: FleetHub, model: str) -> Groups:
    """One query a model, whatever the fleet's size: the hub allows few a minute."""
    base = path_of(names.check_model_name(model))
    paths = {"version": f"{base}.version", "state": f"{base}.state", "error": f"{base}.error.code"}
    columns = ", ".join(f"{path} AS {name}" for name, path in paths.items())
    found = await rows(hub, f"SELECT {columns}, COUNT() AS devices FROM devices GROUP BY {', '.join(paths.values())}")
    counted: dict[str, Counter[str]] = {name: Counter() for name in paths}
    without = 0
    for row in found:
        number = _count(row.get("devices"))
        values = {name: row.get(name) for name in paths}
        for name, value in values.items():
            if value is not None and not isinstance(value, dict | list):
                counted[name][shown(value)] += number
        if all(value is None for value in values.values()):
            without += number
    groups = {
        name: tuple(Group(*each) for each in sorted(c.items(), key=lambda e: (-e[1], e[0])))
        for name, c in counted.items()
    }
    return Groups(groups["version"], groups["state"], groups["error"], without)


async def total(hub: FleetHub) -> tuple[int, int]:
    """All devices, and those that are connected."""
    found = await rows(hub, "SELECT connectionState AS state, COUNT() AS devices FROM devices GROUP BY connectionState")
    by_state = {row.get("state"): _count(row.get("devices")) for row in found}
    return sum(by_state.values()), by_state.get("Connected", 0)


async def spent_bytes(hub: FleetHub) -> Mapping[str, int]:
    """Bytes that all devices report for this day and month, both ways."""
    columns = ", ".join(
        f"SUM({REPORTED}.ledger.{period}.{way}) AS {period}_{way}"
        for period in ("day", "month")
        for way in ("received", "sent")
    )
    found = await rows(hub, f"SELECT {columns} FROM devices")
    row = found[0] if found else {}
    return {
        period: sum(_count(row.get(f"{period}_{way}")) for way in ("received", "sent")) for period in ("day", "month")
    }


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device in a list."""

    device: str
    connected: bool
    contact: str
    version: str
    state: str
    since: str
    error: str
    text: str


async def devices(hub: FleetHub, wanted: Filter, token: str | None) -> tuple[list[DeviceRow], str | None]:
    """One page of devices, and the token of the next."""
    condition = wanted.condition()
    query = "SELECT * FROM devices" + (f" WHERE {condition}" if condition else "")
    found, following = await hub.query_page(query, page=PAGE, token=token)
    return [_row(each, wanted.model) for each in found], following


def _row(document: Json, model: str) -> DeviceRow:
    reported = _at(document, "properties", "reported", "modelsync")
    models = _at(reported, "models")
    of_model = _at(models, model) if model else {}
    if not model and len(models) == 1:
        of_model = _at(models, next(iter(models)))
    error = _at(of_model, "error")
    version = of_model.get("version")
    if not model and len(models) != 1:
        versions = [f"{shown(name)} {shown(_at(models, name).get('version'))}" for name in sorted(models)[:4]]
        version = ", ".join(versions) or None
    return DeviceRow(
        shown(document.get("deviceId")),
        document.get("connectionState") == "Connected",
        moment(document.get("lastActivityTime")),
        shown(version),
        shown(of_model.get("state")),
        moment(of_model.get("since")),
        shown(error.get("code")),
        shown(error.get("text")),
    )


def shown(value: object) -> str:
    """A reported value as text that fits a page: short, on one line, nothing that reorders or hides."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    cleaned = "".join(each if each.isprintable() and each not in _REORDERS else "\ufffd" for each in text[:_MAX_TEXT])
    return cleaned + ("…" if len(text) > _MAX_TEXT else "")


_REORDERS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def moment(value: object) -> str:
    """A time (UTC) to the second; empty for the hub's `never` and for nonsense."""
    text = shown(value)
    if len(text) < 19 or text.startswith("0001") or text[10] != "T":
        return ""
    return f"{text[:10]} {text[11:19]}"


@dataclass(frozen=True, slots=True)
class ModelOnDevice:
    """What is desired of one model and what the device says of it."""

    name: str
    desired: str
    version: str
    state: str
    since: str
    previous: str
    hold: bool
    bytes: int | None
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `history`: what this process saw it report since it began to look. Sizes in bytes, None: unknown."""

    device: str
    connected: bool
    contact: str
    daemon: str
    unconfined: tuple[str, ...]
    origin: str
    models: tuple[ModelOnDevice, ...]
    problems: tuple[tuple[str, str], ...]
    day: int | None
    month: int | None
    budget_day: int | None
    budget_month: int | None
    tags: tuple[tuple[str, str], ...]


def device(document: Json) -> Device:
    """A twin as a page shows it; whatever is reported, it breaks nothing."""
    reported = _at(document, "properties", "reported", "modelsync")
    desired = _at(document, "properties", "desired", "modelsync")
    wishes = twin.parse_desired({"modelsync": desired})
    models = {str(name) for name in (*_at(reported, "models"), *_at(desired, "models"))}
    daemon = _at(reported, "daemon")
    lacking = daemon.get("unconfined")
    ledger = _at(reported, "ledger")
    return Device(
        shown(document.get("deviceId")),
        document.get("connectionState") == "Connected",
        moment(document.get("lastActivityTime")),
        shown(daemon.get("version")),
        tuple(map(shown, lacking[:8])) if isinstance(lacking, list) else (),
        shown(desired.get("origin")),
        tuple(
            _model(name, _at(reported, "models", name), _at(desired, "models", name)) for name in sorted(models)[:100]
        ),
        tuple((shown(key), shown(text)) for key, text in sorted(_at(reported, "problems").items())[:50]),
        _both(_at(ledger, "day")),
        _both(_at(ledger, "month")),
        wishes.policy.bytes_per_day,
        wishes.policy.bytes_per_month,
        tuple((shown(key), shown(value)) for key, value in sorted(_at(document, "tags").items())[:50]),
    )


def _model(name: str, reported: Mapping[str, Any], desired: Mapping[str, Any]) -> ModelOnDevice:
    error = reported.get("error")
    told = error if isinstance(error, dict) else {}
    size = reported.get("bytes")
    return ModelOnDevice(
        shown(name),
        shown(desired.get("version")),
        shown(reported.get("version")),
        shown(reported.get("state")),
        moment(reported.get("since")),
        shown(reported.get("previous")),
        reported.get("hold") is True,
        size if type(size) is int else None,
        shown(told.get("code")),
        shown(told.get("text")),
    )


def _both(period: Mapping[str, Any]) -> int | None:
    ways = [period.get(way) for way in ("received", "sent")]
    known = [each for each in ways if type(each) is int]
    return sum(known) if known else None


def _at(document: object, *path: str) -> dict[str, Any]:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18 else 0


def quoted(text: str) -> str:
    """A string as the query language wants it; UsageError for one with quotes or backslashes."""
    if len(text) > 128 or any(each in "'\"\\" or not each.isprintable() for each in text):
        raise UsageError(f"{text[:20]!r} can't be looked for: leave quotes and backslashes out.")
    return f"'{text}'"
