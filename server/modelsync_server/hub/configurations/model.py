"""A configuration as IoT Hub knows it: content, target condition, priority, labels, metrics. Pure: no I/O.

Source: learn.microsoft.com/azure/iot-hub/iot-hub-automatic-device-management and rest/api/iothub/service/configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelsync_server.hub.state import etag_of
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import HubError, argument_invalid
from modelsync_server.query import Condition, Query, parse, parse_condition

MAX_CONFIGURATIONS = 100
"""Of a paid hub."""
MAX_METRICS = 5
MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 8192
MAX_PRIORITY = 2**31 - 1
EVERYONE = "*"
_DESIRED = "properties.desired"
_ID = re.compile(r"[a-z0-9\-+%_*!']{1,128}")
_MODULES = re.compile(r"\s*from\s+devices\.modules\s+where\s+", re.IGNORECASE)

Path = tuple[str, ...]
Parts = Mapping[Path, Any]
"""Where in the desired properties (() is all of them) which value is set."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration; `revision` counts its changes (the ETag), times are ISO 8601 in UTC."""

    id: str
    content: dict[str, Any]
    target_condition: str = ""
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    updated: str = ""
    revision: int = 1

    @property
    def etag(self) -> str:
        return etag_of(self.revision)

    @property
    def targets_modules(self) -> bool:
        """Whether its condition is about module twins (deployments target devices)."""
        return "moduleContent" in self.content

    @property
    def condition(self) -> Condition | None:
        """Its target condition, parsed; None if it targets nobody (an empty one)."""
        return target(self.target_condition, modules=self.targets_modules)

    def own_parts(self) -> Parts:
        """What a device or module configuration sets in the twin it targets."""
        own = self.content.get("deviceContent") or self.content.get("moduleContent") or {}
        return {_path(key): value for key, value in own.items()}

    def module_parts(self) -> dict[str, Parts]:
        """What a deployment sets in the modules of a device, by module id."""
        modules = self.content.get("modulesContent") or {}
        return {name: {_path(key): value for key, value in content.items()} for name, content in modules.items()}

    def document(self, system: Mapping[str, int], custom: Mapping[str, int]) -> dict[str, Any]:
        """As REST gives it, with counts of its metrics."""
        return {
            "id": self.id,
            "schemaVersion": "1.0",
            "labels": dict(self.labels),
            "content": self.content,
            "targetCondition": self.target_condition,
            "createdTimeUtc": self.created,
            "lastUpdatedTimeUtc": self.updated,
            "priority": self.priority,
            "systemMetrics": {"results": dict(system), "queries": self.system_queries()},
            "metrics": {"results": dict(custom), "queries": dict(self.metrics)},
            "etag": self.etag,
        }

    def system_queries(self) -> dict[str, str]:
        """The queries behind targetedCount and appliedCount, as Azure shows them."""
        source = "devices.modules" if self.targets_modules else "devices"
        condition = _MODULES.sub("", self.target_condition)
        targeted = "" if condition == EVERYONE else f" where {condition}"
        names = "deviceId, moduleId" if self.targets_modules else "deviceId"
        return {
            "targetedCount": f"select {names} from {source}{targeted}" if condition else "",
            "appliedCount": f"select {names} from {source} where configurations.[[{self.id}]].status = 'Applied'",
        }

    def metric_queries(self) -> dict[str, Query]:
        return {name: parse(text) for name, text in self.metrics.items()}

    def dump(self) -> str:
        """For the store."""
        return json.dumps(
            [self.content, self.target_condition, self.priority, dict(self.labels), dict(self.metrics), self.created,
             self.updated, self.revision]
        )  # fmt: skip


def load(identifier: str, text: str) -> Configuration:
    """What `dump` wrote."""
    return Configuration(identifier, *json.loads(text))


def target(text: str, *, modules: bool) -> Condition | None:
    """Parse a target condition; None for an empty one. HubError 400 if it is not understood."""
    text = text.strip()
    if not text:
        return None
    if modules:
        begin = _MODULES.match(text)
        if begin is None:
            raise argument_invalid("a target condition for modules begins with FROM devices.modules WHERE.")
        text = text[begin.end() :].strip()
    if text == EVERYONE:
        return lambda document: True
    return parse_condition(text)


def from_body(identifier: str, body: Mapping[str, Any], now: str, existing: Configuration | None) -> Configuration:
    """The configuration that a PUT makes of `body`; HubError 400 for what is not allowed.

    Content is immutable: a PUT on an existing one has the same content, or none.
    """
    if not _ID.fullmatch(identifier):
        raise argument_invalid("a configuration's id is 1 to 128 of a-z, 0-9 and -+%_*!'.")
    if body.get("id", identifier) != identifier:
        raise argument_invalid("the id in the body is not that of the address.")
    content = body.get("content")
    if existing is not None and content in (None, {}):
        content = existing.content
    if existing is not None and content != existing.content:
        raise argument_invalid("the content of a configuration is immutable; create another one.")
    _check_content(content)
    assert isinstance(content, dict)
    metrics = body.get("metrics") or {}
    made = Configuration(
        identifier,
        content,
        _text(body.get("targetCondition"), "targetCondition"),
        _priority(body.get("priority", 0)),
        _texts(body.get("labels"), "labels", MAX_LABELS),
        _texts(metrics.get("queries") if isinstance(metrics, dict) else metrics, "metrics.queries", MAX_METRICS),
        now,
        now,
    )
    made.metric_queries()
    _ = made.condition
    if existing is not None:
        return replace(made, created=existing.created, revision=existing.revision + 1)
    return made


def _check_content(content: object) -> None:
    if not isinstance(content, dict) or not content.keys() & {"deviceContent", "moduleContent", "modulesContent"}:
        raise argument_invalid("content has deviceContent, moduleContent or modulesContent.")
    if len(content) != 1:
        raise argument_invalid("content has exactly one of deviceContent, moduleContent and modulesContent.")
    (kind, value), = content.items()  # fmt: skip
    if not isinstance(value, dict) or not value:
        raise argument_invalid(f"{kind} is empty or not an object.")
    sections = value if kind == "modulesContent" else {kind: value}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise argument_invalid(f"{name} is not an object.")
        for key, part in section.items():
            path = _path(key)
            if not path and not isinstance(part, dict):
                raise argument_invalid(f"{key} is not an object.")
            documents.check_patch(_nested(path, part), "desired")


def _path(key: str) -> Path:
    if key == _DESIRED:
        return ()
    rest = key.removeprefix(f"{_DESIRED}.")
    steps = tuple(rest.split("."))
    if rest == key or not all(steps):
        raise argument_invalid(f"{key!r:.80} does not begin with properties.desired.")
    return steps


def _nested(path: Path, value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    return dict(value)


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise argument_invalid(f"{name} is not a string.")
    return value


def _texts(value: object, name: str, most: int) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise argument_invalid(f"{name} is not an object of strings.")
    if len(value) > most or any(len(item) > MAX_LABEL_CHARACTERS for item in value.values()):
        raise argument_invalid(f"{name} holds more than {most} entries or one longer than {MAX_LABEL_CHARACTERS}.")
    return dict(value)


def _priority(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_PRIORITY:
        raise argument_invalid(f"priority is not a number from 0 to {MAX_PRIORITY}.")
    return value


def limit_reached() -> HubError:
    return HubError(
        403002, "IotHubQuotaExceeded", f"The hub holds {MAX_CONFIGURATIONS} configurations, its limit; delete one."
    )


def not_found(identifier: str) -> HubError:
    return HubError(404012, "ConfigurationNotFound", f"Configuration '{identifier}' is not there.")


def exists(identifier: str) -> HubError:
    return HubError(409021, "ConfigurationAlreadyExists", f"Configuration '{identifier}' is there; give its ETag.")
