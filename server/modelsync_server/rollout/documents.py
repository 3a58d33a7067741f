"""The configurations that a rollout writes, and how they are known again: ids, labels, contents, priorities. Pure.

Per model: one record (targets nobody), one configuration per ring that was opened, one `fleet` that holds the wish
after a finished rollout, and `back` ones that give a returned ring what it had before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelsync_protocol import names, twin
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.rollout.gate import Counts
from modelsync_server.rollout.record import MARK, Record
from modelsync_server.rollout.target import EVERYONE, Target, both, either, metrics, quoted, step

Json = dict[str, Any]
_NOBODY = {"deviceContent": {f"properties.desired.{twin.SECTION}.record": "targets nobody"}}


def record_id(model: str) -> str:
    """The one configuration that all operators of a model's rollouts contend for."""
    return f"modelsync-{model}"


def ring_id(record: Record, number: int) -> str:
    return f"{record_id(record.model)}-{record.rollout}-{number}"


def fleet_id(record: Record) -> str:
    return f"{record_id(record.model)}-{record.rollout}-fleet"


def back_id(record: Record, number: int, version: int) -> str:
    return f"{record_id(record.model)}-{record.rollout}-{number}-back-{version}"


def record_body(record: Record) -> Json:
    return {"content": _NOBODY, "targetCondition": "", "priority": 0, "labels": record.labels()}


def ring_body(record: Record, number: int) -> Json:
    """A ring that is open. Earlier rings win over later ones where both hold for a device."""
    identifier, ring, stamp = ring_id(record, number), record.rings[number], record.stamp(number)
    asked = record.target.asked(identifier, record.model, stamp)
    return {
        "content": record.target.content(record.model, record.target.wish(record.version, stamp)),
        "targetCondition": record.target.condition(ring.where),
        "priority": record.priority + len(record.rings) - number,
        "labels": _labels(record, "ring") | {"where": ring.where, "ring": ring.name, "number": str(number)},
        "metrics": {"queries": metrics(record.target, record.model, record.version, asked)},
    }


def fleet_where(record: Record) -> str:
    """Whom the wish is for when all rings are through."""
    return either([ring.where for ring in record.rings])


def fleet_body(record: Record) -> Json:
    where = fleet_where(record)
    labels = _labels(record, "fleet") | {"where": where, "finished": record.why, "by": record.by}
    return {
        "content": record.target.content(record.model, {"version": record.version}),
        "targetCondition": record.target.condition(where),
        "priority": record.priority,
        "labels": labels | {f"ring{number}": ring.dump() for number, ring in enumerate(record.rings)},
    }


def before_tag(model: str) -> str:
    """Where a twin's tags say what it had before a rollout."""
    return f"tags.modelsync.before.{step(model)}"


def asked_by(record: Record, number: int) -> str:
    """The condition that a twin's tags hold what it had before this very ring.

    A later ring's condition may hold for an earlier one's devices, which have passed and keep the version. Tags that
    were written before they named the ring count for all.
    """
    tag = before_tag(record.model)
    ring = f"({tag}.ring = {number} OR NOT is_defined({tag}.ring))"
    return f"{tag}.rollout = {quoted(record.rollout)} AND {ring}"


def back_body(record: Record, number: int, version: int) -> Json:
    """What gives the devices of a ring back the version (0: none) that they had."""
    had = f"{before_tag(record.model)}.version = {version}"
    where = both(record.rings[number].where, had) + f" AND {asked_by(record, number)}"
    wish: Json = {"version": version} if version else {"state": "absent"}
    return {
        "content": record.target.content(record.model, wish),
        "targetCondition": record.target.condition(where),
        "priority": record.priority + len(record.rings) + 1,
        "labels": _labels(record, "back") | {"where": where, "version": str(version)},
    }


def _labels(record: Record, mark: str) -> dict[str, str]:
    return {
        MARK: mark,
        "rollout": record.rollout,
        "model": record.model,
        "version": str(record.version),
        "target": str(record.target),
    }


@dataclass(frozen=True, slots=True)
class Found:
    """A configuration of ours as the hub shows it; `counts` are its metrics, if it has them."""

    id: str
    mark: str
    model: str
    rollout: str
    version: int
    target: Target
    where: str
    priority: int
    etag: str
    document: Mapping[str, Any]

    @property
    def counts(self) -> Counts:
        """A ring's counts, as the hub's metrics gave them last."""
        results = _mapping(_mapping(self.document.get("metrics")).get("results"))
        return Counts(
            *(_number(results.get(name)) for name in ("asked", "active", "waiting", "refused", "rolled_back"))
        )

    def differs(self, expected: Mapping[str, Any]) -> str:
        """What somebody changed by hand, compared with what a rollout wrote; empty if nothing."""
        for key, name in (("content", "content"), ("targetCondition", "target condition"), ("priority", "priority")):
            if self.document.get(key) != expected[key]:
                return name
        queries = _mapping(self.document.get("metrics")).get("queries")
        return "metrics" if "metrics" in expected and queries != expected["metrics"]["queries"] else ""


def found(documents: Iterable[Mapping[str, Any]], model: str | None = None) -> list[Found]:
    """Those of the hub's configurations that are ours; what else is there, or can't be read, is left alone."""
    ours = []
    for document in documents:
        labels = _mapping(document.get("labels"))
        try:
            names.check_model_name(str(labels.get("model")))
            each = Found(
                str(document["id"]),
                str(labels[MARK]),
                str(labels["model"]),
                str(labels["rollout"]),
                int(labels["version"]),
                Target.parse(str(labels["target"])),
                str(labels.get("where", "")),
                _number(document.get("priority")),
                str(document.get("etag", "")),
                document,
            )
        except (KeyError, ValueError, ModelsyncError):
            continue
        if model in (None, each.model):
            ours.append(each)
    return ours


def number(ring: Found) -> int:
    """Which ring of its rollout a configuration is, by its id, which nobody can edit."""
    text = ring.id.rpartition("-")[2]
    return int(text) if text.isdecimal() and len(text) <= 3 else 0


def ring_name(ring: Found) -> str:
    """What a ring's configuration calls it."""
    return str(_mapping(ring.document.get("labels")).get("ring", ""))[:31]


def covers(where: str, other: str) -> bool:
    """Whether a wish for `where` makes an older one for `other` needless."""
    return where in (EVERYONE, other)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> int:
    return value if type(value) is int else 0
