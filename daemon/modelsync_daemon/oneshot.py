"""`modelsyncd pull`: prepare and activate one version in this process, without hub and without resident daemon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.capabilities import device as capabilities
from modelsync_daemon.capabilities import refusals
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import PREPARING, State
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_daemon.transfer.errors import NotClosed, Unsupported
from modelsync_daemon.transfer.origin_secret import FILE_NAME
from modelsync_daemon.workers import bounds
from modelsync_daemon.workers.messages import Job
from modelsync_protocol import names, twin
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError

if TYPE_CHECKING:
    from modelsync_daemon.build.request import Trust

_T = TypeVar("_T")


def pull(
    name: str,
    origin: str,
    data_root: Path,
    trust_root: Path | None,
    origin_ca: Path | None,
    version: int | None,
    show: Callable[[int, int], None],
    *,
    sas_file: Path | None = None,
    proxy: str | None = None,
    stop_on_signals: bool = False,
    own_process: bool = False,
    check_requirements: bool = True,
    stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Fetch and activate the newest signed version of `name` (or `version`); `show` gets bytes done and in total.

    `stage` gets each state that the work comes to.

    `stop_on_signals`: SIGTERM and SIGINT raise Stopped once what is durable is closed; only in the main thread.
    `check_requirements` False: what the version requires of a device does not matter.
    `own_process`: this process does nothing else, so it gives up for good what a pull doesn't need; on its only thread.

    Returns the document of DESIGN §9. Raises ModelsyncError; what was fetched by then is kept for the next call.
    """
    names.check_model_name(name)
    try:
        twin.check_origin(origin)
    except ValueError as error:
        raise UsageError(f"--origin {error}") from error
    for option, path in (("--trust", trust_root), ("--ca", origin_ca), ("--sas-file", sas_file)):
        if path is not None and not path.is_file():
            raise UsageError(f"{option} {path} is not a readable file.")
    data = DataDir(data_root)
    with data.lock(), contextlib.closing(Database.open(data)) as database:
        data.clean()
        job = Job(
            name=name,
            version=None if version is None else names.check_version(version),
            origin=origin,
            data=str(data.root),
            origin_ca=str(origin_ca) if origin_ca else None,
            trust_root=str(trust_root) if trust_root else None,
            quarantined=tuple(database.quarantined(name)),
            secrets=tuple(str(path.absolute()) for path in (sas_file, data.root / FILE_NAME) if path),
            proxy=proxy,
            capabilities=capabilities.look(data.root, database, name, ()) if check_requirements else None,
        )
        open_trust = bounds.confine_all_but_trust(job).open if own_process else None
        return install(job, data, database, show, stop_on_signals, stage, open_trust)


def install(
    job: Job,
    data: DataDir,
    database: Database,
    show: Callable[[int, int], None],
    stop_on_signals: bool,
    stage: Callable[[str], None] = lambda name: None,
    open_trust: Callable[[Path], Trust] | None = None,
) -> dict[str, Any]:
    """Carry out `job` and point at what it brings; the caller holds the lock. Returns and raises as of pull.

    `open_trust` as of job_runner.run; None: trust is checked in this process.
    """
    from modelsync_daemon.workers import job_runner  # the heavy imports

    begin = time.monotonic()
    ledger = Ledger(database)

    def emit(event: Mapping[str, Any]) -> None:
        if event["event"] == "wire":
            ledger.add(event["received"], event["sent"])
        elif event["event"] == "progress":
            show(event["done"], event["total"])
        elif event["event"] == "state":
            stage(event["state"])

    database.transition(job.name, State.RESOLVING, target_version=job.version, target_digest=None, retry_at=0)
    try:
        work = job_runner.run(job, database, emit, open_trust)
        outcome = asyncio.run(_until_signal(work) if stop_on_signals else work)
    except Unsupported as error:
        database.transition(job.name, State.UNSUPPORTED, error_code="unsupported", error_text=str(error))
        raise
    except NotClosed as error:  # fetched again it would be the same: it is kept out until somebody releases it
        database.quarantine(job.name, error.digest, error.version, str(error), "")
        database.transition(job.name, State.QUARANTINED, error_code="refused", error_text=str(error))
        raise
    except ModelsyncError as error:
        if database.model(job.name).state in PREPARING:
            code = "disk" if isinstance(error, LocalError) else "refused" if error.exit_code == 3 else "offline"
            database.transition(job.name, State.WAITING, error_code=code, error_text=str(error))
        raise
    finally:
        ledger.flush()
    database.withdraw(job.name, frozenset(outcome.withdrawn))
    refusals.note_unknown(database, job.name, outcome.version, outcome.unknown)
    database.update(job.name, bytes=outcome.bytes * (job.media is None), hold="")  # who does it by hand wants it
    if job.media is None:
        DesiredState(database).drop(job.name)  # this counts now, not what a medium once brought
    activation = Activation(data, database, Processes(), Patience())
    pointer = activation.point_at_once(job.name, Reference(outcome.version, outcome.digest))
    return {
        "name": job.name,
        "version": pointer.version,
        "digest": pointer.digest,
        "path": str(data.version_dir(job.name, pointer.version, pointer.digest)),
        "state": database.model(job.name).state.value,
        "plan": {"kind": outcome.kind, "bytes": outcome.bytes, "requests": outcome.requests},
        "wire": {"received": outcome.received, "sent": outcome.sent, "requests": outcome.wire_requests},
        "seconds": round(time.monotonic() - begin, 3),
    }


async def _until_signal(work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work`; SIGTERM and SIGINT cancel it, so that what is durable is closed in order."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise Stopped("stopped by a signal; run the same command to go on where it stopped.") from None


class Stopped(ModelsyncError):
    """A signal ended the call."""

    exit_code = 4
