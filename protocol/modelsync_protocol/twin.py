"""The twin's two halves: reading desired properties, building and patching reported ones. No I/O here.

Whoever edits a twin by hand makes mistakes: reading never raises; what is wrong is left out and named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from modelsync_protocol import caps, names
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.policy.policy import MAX_PEERS as MAX_PEERS
from modelsync_protocol.policy.policy import Policy as Policy
from modelsync_protocol.policy.policy import PolicyReader
from modelsync_protocol.policy.policy import SitePolicy as SitePolicy
from modelsync_protocol.policy.policy import check_site_name as check_site_name
from modelsync_protocol.policy.policy import is_peer as is_peer
from modelsync_protocol.policy.windows import NEVER as NEVER
from modelsync_protocol.policy.windows import Window as Window
from modelsync_protocol.policy.windows import parse_window as parse_window

SECTION = "modelsync"
"""The key of ours in both halves of the twin."""

MAX_INTEGER = caps.MAX_TWIN_INTEGER
"""Highest integer that IoT Hub keeps exactly."""

_MAX_TEXT = 240
_MAX_PROBLEMS = 16
_BAD_KEY = re.compile(r"[\x00-\x20\x7f.$]")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is desired of one model: a version, removal (`absent`), or neither (no opinion).

    `trace`: a W3C traceparent; the stages of the update are reported with it. It changes nothing else.
    `activate`: which of the device's own ways to tell its application; empty: the usual one.
    """

    version: int | None = None
    absent: bool = False
    retry: str = ""
    trace: str = field(default="", compare=False)
    activate: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired half as understood. `problems` maps the path of a wrong value to a sentence."""

    version: int | None = None
    origin: str | None = None
    models: Mapping[str, Wish] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    problems: Mapping[str, str] = field(default_factory=dict)


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
            policy=PolicyReader(self._problem).policy(section.get("policy")),
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
        trace = value.get("trace", "")
        if not isinstance(trace, str) or not re.fullmatch(r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", trace):
            self._problem(f"{path}/trace", "is no traceparent.")
            trace = ""
        activate = value.get("activate", "")
        if not isinstance(activate, str) or len(activate) > 128:
            self._problem(f"{path}/activate", "is not the label of an application that the device's settings name.")
            activate = ""
        assert version is None or isinstance(version, int)
        return Wish(version=version, absent=state == "absent", retry=str(retry), trace=trace, activate=activate)


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


CUT_FIRST = (
    "trace", "progress", "inference", "runs_on", "unknown_requirements", "error", "since", "bytes", "digest",
)  # fmt: skip
"""Of each model, in this order, where a report is too large."""


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
        **({"network": _reported_network(status["network"])} if "network" in status else {}),
    }
    if problems:
        section["problems"] = dict(problems)
    document = {SECTION: section}
    for key in CUT_FIRST:
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


def _reported_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """Without the SSID and the rest that the rule was judged by: where a device is is nobody's business there."""
    return {key: network[key] for key in ("rule", "problem", "ledger") if network.get(key)}


def _unconfined(layers: Sequence[str] | None) -> dict[str, Any]:
    """What a worker was not confined by; nothing if all is well or not known, since every byte is paid for."""
    names = {layer.split()[0] for layer in layers or ()}
    missing = [name for name in ("landlock", "seccomp") if layers is not None and name not in names]
    return {"unconfined": missing} if missing else {}


_REPORTED = ("version", "digest", "generation", "state", "since", "desired", "progress", "bytes", "runs_on", "trace")


def _reported_model(model: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: model[key] for key in _REPORTED if model.get(key) is not None}
    if model.get("unknown_requirements"):
        result["unknown_requirements"] = list(model["unknown_requirements"])[:_MAX_PROBLEMS]
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
