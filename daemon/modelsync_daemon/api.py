"""The library of a device: `pull` one model without a hub, `status` of a data directory. The command line uses it.

Each loads what it needs when it is called. Errors are modelsync_protocol.errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsync_protocol.errors import UsageError

if TYPE_CHECKING:
    from modelsync_daemon.results import Pulled, Status


def pull(
    name: str,
    origin: str,
    data: str | Path,
    *,
    trust: str | Path | None = None,
    version: int | None = None,
    ca: str | Path | None = None,
    sas_file: str | Path | None = None,
    proxy: str | None = None,
    check_requirements: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stage: Callable[[str], None] = lambda name: None,
    stop_on_signals: bool = False,
    own_process: bool = False,
) -> Pulled:
    """Fetch, prove and activate the newest version of a model (or `version`) now, without a hub.

    `origin` is the store's URL, `data` the data directory, which is made if it is missing and then needs `trust`, the
    publisher's root.json. `ca`: a PEM file to check the origin against; `sas_file`: a file with its secret query;
    `proxy`: an HTTP proxy's URL; `check_requirements` False: it is fetched even if this device can't run it.
    `progress(done, total)` is told bytes, `stage` each state that it comes to. Interrupted, the next call goes on where
    this one stopped; with `stop_on_signals` SIGTERM and SIGINT end it in order (main thread only). `own_process`: this
    process does nothing else afterwards, and gives up for good what a pull doesn't need (files, processes, ports), as
    the command does; on its only thread. Call it outside an event loop (from a coroutine: `await
    asyncio.to_thread(pull, …)`).

    UsageError for wrong input, RefusedError for what trust forbids, UnreachableError if the origin does not answer,
    LocalError if the directory is in use, full or not ours.
    """
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("pull runs an event loop of its own: call it with `await asyncio.to_thread(pull, …)`.")
    from modelsync_daemon import oneshot, results

    return results.pulled(
        oneshot.pull(
            name,
            origin,
            Path(data),
            _path(trust),
            _path(ca),
            version,
            progress,
            sas_file=_path(sas_file),
            proxy=proxy,
            check_requirements=check_requirements,
            stage=stage,
            stop_on_signals=stop_on_signals,
            own_process=own_process,
        )
    )


def status(data: str | Path, *, running: bool = False) -> Status:
    """What goes on in the data directory `data`: asked of its daemon, else read from the disk. May be called anywhere.

    `running`: UnreachableError unless a daemon runs and answers. UsageError if it is no data directory; LocalError.
    """
    from modelsync_daemon import results

    return results.status(status_document(data, running=running), Path(data))


def status_document(data: str | Path, *, running: bool = False) -> dict[str, Any]:
    """As `status`, as the document of docs/interfaces.md §4."""
    from modelsync_daemon.local import socket_client

    root = check_data(Path(data))
    try:
        document: dict[str, Any] = socket_client.call(root / "daemon.sock", "GET", "/v1/status")
    except socket_client.NoDaemon:
        if running:
            raise
        from modelsync_daemon import offline  # three times what asking a daemon loads

        document = offline.status(root)
    return document


def check_data(data: Path) -> Path:
    """Return `data` if a modelsyncd has used it, else UsageError."""
    if not (data / "state.db").is_file():
        raise UsageError(f"{data} is not a data directory of modelsyncd (it has no state.db).")
    return data


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
