"""The twin's two halves: reading desired properties, building and patching reported ones. No I/O here.

Whoever edits a twin by hand makes mistakes: reading never raises; what is wrong is left out and named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from modelsync_protocol import caps, names
from modelsync_protocol.errors import ModelsyncError

SECTION = "modelsync"
"""The key of ours in both halves of the twin."""

MAX_INTEGER = 2**52 - 1
"""Highest integer that IoT Hub keeps exactly."""

_MAX_TEXT = 240
_MAX_PROBLEMS = 16
_WINDOW = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])")
MAX_PEERS = 64
"""Neighbours that a device knows, at the most."""

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PEER = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[1-9][0-9]{0,4}")
_BAD_KEY = re.compile(r"[\x00-\x20\x7f.$]")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is desired of one model: a version, removal (`absent`), or neither (no opinion)."""

    version: int | None = None
    absent: bool = False
    retry: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day during which fetching is allowed, minutes after local midnight; may span midnight."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Whether `minute` after midnight lies inside."""
        if self.begin <= self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


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


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired half as understood. `problems` maps the path of a wrong value to a sentence."""

    version: int | None = None
    origin: str | None = None
    models: Mapping[str, Wish] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    problems: Mapping[str, str] = field(default_factory=dict)


def check_site_name(name: object) -> str:
    """Return a site's name, or raise ValueError."""
    if not isinstance(name, str) or not _SITE_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is not a site's name: use 1 to 63 letters, digits, '.', '_' and '-'.")
    return name


def is_peer(value: object) -> bool:
    """Whether this is a neighbour's `host:port`."""
    return isinstance(value, str) and _PEER.fullmatch(value) is not None


def parse_window(text: object) -> Window:
    """Read `HH:MM-HH:MM`; raises ValueError with a sentence."""
    match = _WINDOW.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r:.60} is not a time window; write it as 22:00-06:00.")
    begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if begin > 1440 or end > 1440 or begin % 1440 == end:
        raise ValueError(f"{text!r:.60} is not a time window; write it as 22:00-06:00.")
    return Window(begin % 1440, end)


NEVER = Window(0, 0)
"""A window that no minute lies in."""


def parse_desired(document: object) -> Desired:
    """Understand a twin's desired half (with its `$version`); unknown keys are ignored, wrong values reported."""
    return _Reader().desired(document)


class _Reader:
    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def desired(self, document: object) -> Desired:
        if not isinstance(document, Mapping):
            return Desired(problems={SECTION: "desired properties are not an object."})
        version = document.get("$version")
        section = document.get(SECTION)
        if not isinstance(section, Mapping):
            if section is not None:
                self.problems[SECTION] = "is not an object."
            section = {}
        return Desired(
            version=version if type(version) is int else None,
            origin=self._origin(section.get("origin")),
            models=self._models(section.get("models")),
            policy=self._policy(section.get("policy")),
            problems=self.problems,
        )

    def _problem(self, path: str, text: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems[_BAD_KEY.sub("_", path)[:100]] = text[:_MAX_TEXT]

    def _origin(self, value: object) -> str | None:
        if value is None:
            return None
        try:
            return check_origin(value)
        except ValueError as error:
            self._problem("origin", str(error))
            return None

    def _models(self, value: object) -> dict[str, Wish]:
        if not isinstance(value, Mapping):
            if value is not None:
                self._problem("models", "is not an object of model names.")
            return {}
        wishes = {}
        for name, wish in value.items():
            try:
                names.check_model_name(str(name))
            except ModelsyncError as error:
                self._problem(f"models/{name}", str(error))
                continue
            if wish is None:
                continue
            if isinstance(wish, Mapping):
                understood = self._wish(f"models/{name}", wish)
                if understood is not None:
                    wishes[str(name)] = understood
            else:
                self._problem(f"models/{name}", 'is not an object such as {"version":42}.')
        return wishes

    def _wish(self, path: str, value: Mapping[str, object]) -> Wish | None:
        version, state, retry = value.get("version"), value.get("state"), value.get("retry", "")
        if state not in (None, "absent", "present"):
            self._problem(f"{path}/state", f"{state!r:.40} is not a state; the only one to wish for is 'absent'.")
            return None
        if version is not None:
            try:
                names.check_version(version)
            except ModelsyncError as error:
                self._problem(f"{path}/version", str(error))
                return None
        if type(retry) not in (str, int) or len(str(retry)) > 128:
            self._problem(f"{path}/retry", "is not a short string or integer.")
            retry = ""
        assert version is None or isinstance(version, int)
        return Wish(version=version, absent=state == "absent", retry=str(retry))

    def _policy(self, value: object) -> Policy:
        if not isinstance(value, Mapping):
            if value is not None:
                self._problem("policy", "is not an object.")
            return Policy()
        known = [field.name for field in fields(Policy)]
        for key in sorted(map(str, value.keys() - set(known))):
            self._problem(f"policy/{key}", f"is no key of a policy; these are: {', '.join(known)}.")
        hold = value.get("hold")
        if hold is not None and type(hold) is not bool:
            self._problem("policy/hold", "is neither true nor false.")
            hold = None
        return Policy(
            bytes_per_day=self._amount("policy/bytes_per_day", value.get("bytes_per_day"), 0),
            bytes_per_month=self._amount("policy/bytes_per_month", value.get("bytes_per_month"), 0),
            rate_limit=self._amount("policy/rate_limit", value.get("rate_limit"), 1),
            windows=self._windows(value.get("windows")),
            hold=bool(hold),
            site=self._site(value.get("site")),
        )

    def _site(self, value: object) -> SitePolicy | None:
        """What can be read of it. A wrong list of neighbours, name or key keeps all out: a site is a convenience."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._problem("policy/site", 'is not an object such as {"peers":["10.0.0.2:8444"]}.')
            return SitePolicy(off=True)
        known = [field.name for field in fields(SitePolicy)]
        for extra in sorted(map(str, value.keys() - set(known))):
            self._problem(f"policy/site/{extra}", f"is no key of a site; these are: {', '.join(known)}.")
        peers, name, key, off = (value.get(word) for word in ("peers", "name", "key", "off"))
        if peers is not None and not (isinstance(peers, list) and len(peers) <= MAX_PEERS and all(map(is_peer, peers))):
            self._problem("policy/site/peers", f'is not a list of at most {MAX_PEERS} such as ["10.0.0.2:8444"].')
            off = True
        if name is not None:
            try:
                check_site_name(name)
            except ValueError as error:
                self._problem("policy/site/name", str(error))
                off = True
        if key is not None and not names.is_digest(key):
            self._problem("policy/site/key", "is not the SHA-256 of a certificate in lower-case hex.")
            off = True
        if off not in (None, True, False):
            self._problem("policy/site/off", "is neither true nor false.")
            off = True
        if off:
            return SitePolicy(off=True)
        return SitePolicy(tuple(map(str, peers or ())), str(name or ""), str(key or ""))

    def _amount(self, path: str, value: object, lowest: int) -> int | None:
        if value is None:
            return None
        if type(value) is not int or not lowest <= value <= MAX_INTEGER:
            self._problem(path, f"{value!r:.40} is not a whole number of bytes from {lowest}.")
            return None
        return value

    def _windows(self, value: object) -> tuple[Window, ...]:
        """The windows that can be read. Where some were meant and none can be, none is open: bytes cost money."""
        if value is None or value == []:
            return ()
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            self._problem("policy/windows", 'is not a list such as ["22:00-06:00"].')
            return (NEVER,)
        windows = []
        for item in items:
            try:
                windows.append(parse_window(item))
            except ValueError as error:
                self._problem("policy/windows", str(error))
        return tuple(windows) or (NEVER,)


def check_model_names(patch: Mapping[str, Any]) -> None:
    """UsageError for a patch of desired properties that names a model by what is no model name."""
    section = patch.get(SECTION)
    models = section.get("models") if isinstance(section, Mapping) else None
    for name, wish in models.items() if isinstance(models, Mapping) else ():
        if wish is not None or _BAD_KEY.search(name):  # a wrong name that a twin has can be deleted
            names.check_model_name(name)


def check_origin(value: object) -> str:
    """Return `value` if it is an origin's URL (http or https, a query is allowed), else raise ValueError."""
    if not isinstance(value, str) or len(value) > 2048 or any(ord(c) <= 32 or ord(c) == 127 for c in value):
        raise ValueError("is not a URL such as https://models.example.com.")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.fragment:
        # A password or a query may be a secret, which must not be repeated into logs and reports.
        shown = value.partition(":" if "@" in value else "?")[0]
        raise ValueError(f"{shown[:80]!r} does not begin a URL such as https://models.example.com, without a user.")
    return value


def build_reported(
    status: Mapping[str, Any], problems: Mapping[str, str] | None = None, most: int = caps.MAX_TWIN_BYTES
) -> dict[str, Any]:
    """The reported half, at most `most` bytes, of a status document (docs/interfaces.md §4).

    If it does not fit, the least important parts go first: progress, what inference says of itself, error texts,
    digests, then whole models; `cut` names what is lacking, "models" for whole ones.
    """
    models = {name: _reported_model(model) for name, model in status["models"].items()}
    section: dict[str, Any] = {
        "models": models,
        "daemon": {key: status["daemon"][key] for key in ("version", "formats") if key in status["daemon"]}
        | _unconfined(status["daemon"].get("confined_by")),
        "ledger": status["ledger"],
        **({"site": status["site"]} if "site" in status else {}),
    }
    if problems:
        section["problems"] = dict(problems)
    document = {SECTION: section}
    for key in ("progress", "inference", "error", "since", "bytes", "digest"):
        if _size(document) <= most:
            return document
        section["cut"] = [*section.get("cut", ()), key]
        for model in models.values():
            if key == "error" and "error" in model:
                model["error"] = {"code": model["error"]["code"]}
            else:
                model.pop(key, None)
    if _size(document) > most:
        section["cut"] = [*section["cut"], "models"]
    excess = _size(document) - most
    for name in sorted(models, reverse=True):
        if excess > 0:
            excess -= _size({name: models.pop(name)}) - 1
    return document


def _unconfined(layers: Sequence[str] | None) -> dict[str, Any]:
    """What a worker was not confined by; nothing if all is well or not known, since every byte is paid for."""
    names = {layer.split()[0] for layer in layers or ()}
    missing = [name for name in ("landlock", "seccomp") if layers is not None and name not in names]
    return {"unconfined": missing} if missing else {}


def _reported_model(model: Mapping[str, Any]) -> dict[str, Any]:
    result = {
        key: model[key]
        for key in ("version", "digest", "generation", "state", "since", "desired", "progress", "bytes")
        if model.get(key) is not None
    }
    if model.get("hold"):
        result["hold"] = True
    if model.get("inference"):
        result["inference"] = model["inference"]
    if model.get("error"):
        result["error"] = {
            "code": model["error"]["code"],
            "text": model["error"]["text"][:_MAX_TEXT],
        }
    return result


def difference(before: object, after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) that turns `before` into `after`: only what changed, None for deletions.

    Keys that begin with `$` (the hub's own) are left alone.
    """
    old = before if isinstance(before, Mapping) else {}
    patch: dict[str, Any] = {key: None for key in old if key not in after and not key.startswith("$")}
    for key, value in after.items():
        if isinstance(value, Mapping):
            if not isinstance(old.get(key), Mapping):
                patch[key] = merge({}, value)
            elif inner := difference(old[key], value):
                patch[key] = inner
        elif key not in old or old[key] != value or type(old[key]) is not type(value):
            patch[key] = value
    return patch


def merge(document: object, patch: Mapping[str, Any]) -> dict[str, Any]:
    """`document` after the merge patch (RFC 7396); neither argument is changed."""
    result = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merge(result.get(key), value)
        else:
            result[key] = value
    return result


def _size(document: object) -> int:
    return len(json.dumps(document, separators=(",", ":")).encode())
