"""`modelsyncd import`: has the running daemon bring what a medium has, or does it here where none runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsync_daemon import oneshot
from modelsync_daemon.capabilities import device as capabilities
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.states import PREPARING, State
from modelsync_daemon.local import socket_client
from modelsync_daemon.reconcile import imports
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_daemon.reconcile.imports import Imported
from modelsync_daemon.workers import bounds, medium_reader
from modelsync_daemon.workers.messages import Job
from modelsync_protocol import caps
from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError
from modelsync_protocol.media import Medium
from modelsync_protocol.twin import Wish

WORDS = {
    imports.COMING: "is under way",
    imports.BROUGHT: "was brought",
    imports.HERE: "was here already",
    imports.LEFT: "is left out",
    imports.FAILED: "is refused",
}
"""What a person is told of each result."""

_MAX_LISTED_BYTES = 60 * caps.KIB
"""What the daemon's socket takes in one request, less room for the path: two thousand models."""

_LOOK_SECONDS = 0.25
_UNDER_WAY = {str(state) for state in PREPARING | {State.PROBING, State.ACTIVATING}}


def run(
    path: Path,
    data_root: Path,
    trust_root: Path | None,
    show: Callable[[int, int], None],
    *,
    stop_on_signals: bool = False,
    own_process: bool = False,
) -> dict[str, Any]:
    """Bring what the export at `path` has for this device. `trust_root`: as of pull, where no daemon runs.

    Returns {"path","store","issued","models":{name:{"result","version","state","text","exit_code"}}}; see
    reconcile/imports.py for the results. Raises ModelsyncError for what concerns the whole medium.
    """
    path = path.absolute()
    medium = medium_reader.read(path)
    listed = {name: list(versions) for name, versions in medium.models.items()}
    if len(json.dumps(listed)) > _MAX_LISTED_BYTES:
        raise UsageError(f"{path} lists too many models for one import; export it with fewer --models.")
    socket = data_root / "daemon.sock"
    try:
        found = socket_client.call(socket, "POST", "/v1/import", {"path": str(path), "models": listed})
    except socket_client.NoDaemon:
        models = _here(path, medium, DataDir(data_root), trust_root, show, stop_on_signals, own_process)
    else:
        models = _watched(socket, found)
    return {"path": str(path), "store": medium.store, "issued": medium.issued, "models": models}


def _watched(socket: Path, models: Mapping[str, Any]) -> dict[str, Any]:
    """Wait until the daemon has brought, or refused, everything."""
    while any(each["result"] == imports.COMING or _switching(each) for each in models.values()):
        time.sleep(_LOOK_SECONDS)
        try:
            models = socket_client.call(socket, "GET", "/v1/import")
        except socket_client.NoDaemon as error:
            raise UnreachableError("modelsyncd ended meanwhile; import again, it goes on where it stopped.") from error
    return dict(models)


def _switching(model: Mapping[str, Any]) -> bool:
    return model["result"] == imports.BROUGHT and model["state"] in _UNDER_WAY


def _here(
    path: Path,
    medium: Medium,
    data: DataDir,
    trust_root: Path | None,
    show: Callable[[int, int], None],
    stop_on_signals: bool,
    own_process: bool,
) -> dict[str, Any]:
    if trust_root is not None and not trust_root.is_file():
        raise UsageError(f"--trust {trust_root} is not a readable file.")
    with data.lock(), contextlib.closing(Database.open(data)) as database:
        data.clean()
        if own_process:
            bounds.confine_all(_job("", None, path, data, trust_root))
        desired = DesiredState(database)
        results: dict[str, Any] = {}
        for name, versions in sorted(medium.models.items()):
            current, row = data.read_pointer(name), database.model(name)
            found = imports.choose(
                versions,
                desired.now.models.get(name, Wish()),
                current.reference if current else None,
                row,
                database.quarantined(name),
                held=desired.now.policy.hold,
            )
            if found.result == imports.COMING:
                job = replace(
                    _job(name, found.version, path, data, trust_root, tuple(database.quarantined(name))),
                    capabilities=capabilities.look(data.root, database, name, ()),
                )
                found = _bring(job, data, database, desired, show, stop_on_signals)
            results[name] = {**found.document(), "state": database.model(name).state.value}
        return results


def _bring(
    job: Job,
    data: DataDir,
    database: Database,
    desired: DesiredState,
    show: Callable[[int, int], None],
    stop_on_signals: bool,
) -> Imported:
    try:
        done = oneshot.install(job, data, database, show, stop_on_signals)
    except oneshot.Stopped:
        raise
    except ModelsyncError as error:
        return Imported(imports.FAILED, job.version, str(error), error.exit_code)
    imports.settle(desired, job.name, done["version"])
    return Imported(imports.BROUGHT, done["version"])


def _job(
    name: str, version: int | None, path: Path, data: DataDir, root: Path | None, quarantined: tuple[str, ...] = ()
) -> Job:
    return Job(
        name=name,
        version=version,
        origin="",
        data=str(data.root),
        trust_root=None if root is None else str(root),
        quarantined=quarantined,
        media=str(path),
    )
