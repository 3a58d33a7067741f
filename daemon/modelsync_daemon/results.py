"""What the library's `pull` and `status` return, typed. No I/O here.

Apart from `api`, so that `modelsyncd status` loads no dataclasses: it may run every minute on a small device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modelsync_protocol import trust


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version that `pull` activated.

    `path` is its folder, `state` where the model stands now (`active`). `kind`, `bytes` and `requests` are the plan;
    `received`, `sent` (bytes on the wire, TLS and headers included) and `wire_requests` what it cost in fact.
    `document` is all of it as `modelsyncd pull --json` prints it.
    """

    name: str
    version: int
    digest: str
    path: Path
    state: str
    kind: str
    bytes: int
    requests: int
    received: int
    sent: int
    wire_requests: int
    seconds: float
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model on this device; `version`, `digest` and `path` are what serves now, None if nothing does.

    `state` as in docs/states.md; `since` is when it came there, UTC. `desired` is the twin's version, `previous` the
    one kept for a rollback. `done` and `total` are bytes of what is being fetched. `error` is a sentence or None.
    """

    name: str
    version: int | None
    digest: str | None
    path: Path | None
    state: str
    since: datetime | None
    desired: int | None
    previous: int | None
    hold: bool
    error_code: str | None
    error: str | None
    done: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """What goes on: `models` by name; whether a daemon runs (`pid`) and is connected to its hub; the wire's bytes.

    `document` is the whole status document (docs/interfaces.md §4).
    """

    models: Mapping[str, ModelStatus]
    daemon_version: str
    pid: int | None
    connected: bool
    bytes_today: int
    bytes_this_month: int
    document: Mapping[str, Any]


def pulled(document: Mapping[str, Any]) -> Pulled:
    """Read the document of a pull."""
    plan, wire = document["plan"], document["wire"]
    return Pulled(
        name=document["name"],
        version=document["version"],
        digest=document["digest"],
        path=Path(document["path"]),
        state=document["state"],
        kind=plan["kind"],
        bytes=plan["bytes"],
        requests=plan["requests"],
        received=wire["received"],
        sent=wire["sent"],
        wire_requests=wire["requests"],
        seconds=document["seconds"],
        document=document,
    )


def status(document: Mapping[str, Any], data: Path) -> Status:
    """Read the status document of the data directory `data`; keys that a newer daemon added are left alone."""
    daemon, ledger = document["daemon"], document["ledger"]
    return Status(
        models={name: _model(name, model, data) for name, model in document["models"].items()},
        daemon_version=daemon["version"],
        pid=daemon["pid"],
        connected=daemon["connected"],
        bytes_today=ledger["day"]["received"] + ledger["day"]["sent"],
        bytes_this_month=ledger["month"]["received"] + ledger["month"]["sent"],
        document=document,
    )


def _model(name: str, model: Mapping[str, Any], data: Path) -> ModelStatus:
    error, progress = model["error"] or {}, model["progress"] or {}
    version, digest = model["version"], model["digest"]
    return ModelStatus(
        name=name,
        version=version,
        digest=digest,
        path=None if version is None else data.absolute() / "models" / name / f"{version}-{digest}",
        state=model["state"],
        since=None if model["since"] is None else trust.parse_time(model["since"]),
        desired=model["desired"],
        previous=model["previous"],
        hold=model["hold"],
        error_code=error.get("code"),
        error=error.get("text"),
        done=progress.get("done"),
        total=progress.get("total"),
    )
