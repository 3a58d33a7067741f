"""Builds the status document (docs/interfaces.md §4) from database, pointers and ledger. It changes nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from modelsync_daemon.activate import inference_history, telling
from modelsync_daemon.capabilities import device, environments, refusals
from modelsync_daemon.disk import zlib_verdict
from modelsync_daemon.disk.database import Database, ModelRow
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.disk.states import SETTLED, State
from modelsync_daemon.workers.messages import CONFINED_BY
from modelsync_protocol.twin import Wish

_NEEDS_ZLIB = 2
"""From this version of the update's format on, objects may ask for the reference's zlib (FORMAT.md §8.1)."""

FORMATS = (1, 2)
"""Versions of protocol/FORMAT.md that this daemon reads."""

_FOLLOWS = frozenset(State) - {State.QUARANTINED, State.PROBING}
"""States in which an application that does not load what the pointer names is what there is to say."""

Progress = Mapping[str, tuple[int, int]]
"""By model: bytes done and bytes in total of what is being fetched."""


def build(
    data: DataDir,
    database: Database,
    ledger: Ledger,
    wishes: Mapping[str, Wish],
    progress: Progress,
    running: bool,
    connected: bool,
    site: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document; `running` tells whether this process is the resident daemon; `site` of neighbours, if there are;
    `network` which network rule is in force, if there are any."""
    rows = {row.name: row for row in database.models()}
    for name in (*wishes, *data.model_names()):
        if not wishes.get(name, Wish()).absent:
            rows.setdefault(name, ModelRow(name))
    return {
        "models": {
            name: _model(data, database, row, wishes.get(name, Wish()), progress.get(name))
            | _runs_on(data, database, row)
            for name, row in sorted(rows.items())
        },
        "daemon": {
            "version": version("modelsync-daemon"),
            "formats": [n for n in FORMATS if n < _NEEDS_ZLIB or zlib_verdict.read(data.zlib_verdict) is not False],
            "pid": os.getpid() if running else None,
            "connected": connected,
            "confined_by": json.loads(database.document(CONFINED_BY) or "null"),
        },
        "ledger": ledger.document(),
        **({} if site is None else {"site": site}),
        **({} if network is None else {"network": network}),
    }


def _runs_on(data: DataDir, database: Database, row: ModelRow) -> dict[str, Any]:
    """What models run on here, if an inference process said so, and requirements of what serves that nobody knows."""
    found: dict[str, Any] = {}
    if environments.read(database, row.name):
        from modelsync_protocol.requirements import capabilities  # only where an inference process said something

        found["runs_on"] = capabilities.line(device.look(data.root, database, row.name, ()))
    current = data.read_pointer(row.name)
    if unknown := refusals.unknown(database, row.name, current.version if current else None):
        found["unknown_requirements"] = unknown
    return found


def _model(
    data: DataDir, database: Database, row: ModelRow, wish: Wish, progress: tuple[int, int] | None
) -> dict[str, Any]:
    # Only of what is settled: a report on the way would cost more than it tells.
    traced = bool(wish.trace) and row.state in SETTLED
    current, told = data.read_pointer(row.name), telling.read(database, row.name)
    error = {"code": row.error_code, "text": row.error_text} if row.error_code else None
    if told and told["text"] and current and told["generation"] == current.generation and row.state in _FOLLOWS:
        text = f"its application does not load version {told['version']}, and is told again: {told['text']}"
        error = {"code": "consumer", "text": f"{text} Before that: {row.error_text}" if row.error_text else text}
    return {
        "version": current.version if current else None,
        "digest": current.digest if current else None,
        "generation": current.generation if current else row.generation,
        "state": row.state.value,
        "since": _utc(row.since) if row.since else None,
        "desired": wish.version,
        "previous": current.previous.version if current and current.previous else None,
        "progress": None if progress is None else {"done": progress[0], "total": progress[1]},
        "bytes": row.bytes,
        "error": error,
        "hold": bool(row.hold),
        "inference": inference_history.read(database, row.name),
        **({"trace": {"parent": wish.trace, "steps": database.steps.of(row.name)}} if traced else {}),
        **({} if told is None else {"consumer": _consumer(told)}),
    }


def _consumer(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "result": told["result"],
        "version": told["version"],
        "generation": told["generation"],
        "since": _utc(told["since"]),
        "text": told["text"] or None,
        "attempts": told["attempts"],
        "retry_at": _utc(told["retry_at"]) if told["retry_at"] else None,
    }


def _utc(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
