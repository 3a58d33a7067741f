"""One device as a page shows it, from its twin and its modules' twins; whatever it reports breaks nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import names, twin
from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard.text import at, moment, seconds, shown, utc, whole
from modelsync_server.rollout.port import Json

_MOST_MODELS = 100
_MAX_WORD = 60
"""Characters of what is a word or a number where a device is in its senses."""
_MOST_LINES = 50
_TOLERATED_SECONDS = 120


@dataclass(frozen=True, slots=True)
class ModelOnDevice:
    """What is desired of one model and what the device says of it. `manageable`: its name is a model's."""

    name: str
    desired: str
    version: str
    state: str
    since: str
    generation: str
    digest: str
    hold: bool
    bytes: int | None
    progress: str
    error: str
    text: str
    inference: str
    manageable: bool

    @property
    def behind(self) -> bool:
        return bool(self.desired) and self.desired != self.version


@dataclass(frozen=True, slots=True)
class Spent:
    """Bytes of a period as reported, against what the twin allows (None: no limit). `stale`: of an earlier period."""

    bytes: int | None
    budget: int | None
    stale: bool

    @property
    def share(self) -> int:
        """Per mille of the budget."""
        return 0 if not self.budget or self.bytes is None or self.stale else min(1000, 1000 * self.bytes // self.budget)


@dataclass(frozen=True, slots=True)
class Reporter:
    """One twin that may have models on it: the device's own (`module` empty), or a module's."""

    module: str
    connected: bool
    contact: str
    daemon: str
    unconfined: tuple[str, ...]
    origin: str
    held_by_policy: bool
    models: tuple[ModelOnDevice, ...]
    problems: tuple[tuple[str, str], ...]
    day: Spent
    month: Spent
    configurations: tuple[tuple[str, str], ...]
    clock: str
    """What is wrong with its clock, as far as its reports show."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device with all twins that say something of models."""

    device: str
    connected: bool
    contact: str
    status: str
    tags: tuple[tuple[str, str], ...]
    reporters: tuple[Reporter, ...]


def device(document: Json, modules: Sequence[Json], now: float) -> Device:
    """A device from its twin and its modules' twins. `now` is the hub's clock."""
    found = [_reporter(document, "", now)]
    for each in modules:
        section = at(each, "properties", "reported", "modelsync") or at(each, "properties", "desired", "modelsync")
        if section:
            found.append(_reporter(each, shown(each.get("moduleId")), now))
    reporters = tuple(each for each in found if each.module or each.models or each.problems or len(found) == 1)
    return Device(
        shown(document.get("deviceId")),
        document.get("connectionState") == "Connected",
        moment(document.get("lastActivityTime")),
        shown(document.get("status")),
        tuple((key, text) for key, text in _flat(at(document, "tags")))[:_MOST_LINES],
        reporters,
    )


def _reporter(document: Json, module: str, now: float) -> Reporter:
    reported = at(document, "properties", "reported", "modelsync")
    desired = at(document, "properties", "desired", "modelsync")
    metadata = at(document, "properties", "reported", "$metadata", "modelsync")
    policy = twin.parse_desired({"modelsync": desired}).policy
    models = sorted({str(name) for name in (*at(reported, "models"), *at(desired, "models"))})[:_MOST_MODELS]
    daemon = at(reported, "daemon")
    lacking = daemon.get("unconfined")
    statuses = at(document, "configurations")
    return Reporter(
        module,
        document.get("connectionState") == "Connected",
        moment(document.get("lastActivityTime")),
        shown(daemon.get("version")),
        tuple(map(shown, lacking[:8])) if isinstance(lacking, list) else (),
        shown(desired.get("origin")),
        policy.hold,
        tuple(_model(name, at(reported, "models", name), at(desired, "models", name)) for name in models),
        tuple((shown(key), shown(text)) for key, text in sorted(at(reported, "problems").items())[:_MOST_LINES]),
        _spent(reported, metadata, "day", policy.bytes_per_day, utc(now)[:10]),
        _spent(reported, metadata, "month", policy.bytes_per_month, utc(now)[:7]),
        tuple((shown(key), shown(at(statuses, key).get("status"))) for key in sorted(statuses)[:_MOST_LINES]),
        _clock(reported, metadata),
    )


def _model(name: str, reported: Mapping[str, Any], desired: Mapping[str, Any]) -> ModelOnDevice:
    error = at(reported, "error")
    progress = at(reported, "progress")
    done, total = whole(progress.get("done")), whole(progress.get("total"))
    wish = "absent" if desired.get("state") == "absent" else shown(desired.get("version"))
    inference = at(reported, "inference")
    try:
        manageable = bool(names.check_model_name(name))
    except UsageError:
        manageable = False
    return ModelOnDevice(
        shown(name),
        wish,
        shown(reported.get("version"), _MAX_WORD),
        shown(reported.get("state"), _MAX_WORD),
        moment(reported.get("since")),
        shown(reported.get("generation")),
        shown(reported.get("digest")),
        reported.get("hold") is True,
        whole(reported.get("bytes")),
        f"{100 * done // total} %" if done is not None and total else shown(reported.get("progress")),
        shown(error.get("code"), _MAX_WORD),
        shown(error.get("text")),
        ", ".join(f"{shown(key)}: {shown(value)}" for key, value in list(_flat(inference))[:8]),
        manageable,
    )


def _flat(document: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Leaves with their paths, so that a nested tag reads like the query that asks for it."""
    lines = []
    for key, value in sorted(document.items())[:_MOST_LINES]:
        path = f"{before}.{shown(key, 64)}" if before else shown(key, 64)
        if isinstance(value, dict) and len(path) < 200:
            lines += _flat(value, path)
        else:
            lines.append((path, shown(value)))
    return lines


def _spent(
    reported: Mapping[str, Any], metadata: Mapping[str, Any], period: str, budget: int | None, current: str
) -> Spent:
    ways = [whole(at(reported, "ledger", period).get(way)) for way in ("received", "sent")]
    known = [each for each in ways if each is not None]
    last = at(metadata, "ledger", period).get("$lastUpdated")
    stale = isinstance(last, str) and last[: len(current)] < current
    return Spent(sum(known) if known else None, budget, stale)


def _clock(reported: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """A report can't have arrived before what it tells of: then the device's clock is ahead."""
    for name in at(reported, "models"):
        since = seconds(at(reported, "models", name).get("since"))
        arrived = seconds(at(metadata, "models", name, "since").get("$lastUpdated"))
        if since is not None and arrived is not None and since - arrived > _TOLERATED_SECONDS:
            return f"its clock is {int((since - arrived) / 60):,} minutes ahead of the hub's."
    return ""
