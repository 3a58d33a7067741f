"""What a worker keeps of files and network, by its job. How it is given up is confinement's business."""

from __future__ import annotations

import gc
import json
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from modelsync_daemon.confinement import layers
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.trust import publishers_only
from modelsync_daemon.trust.trust_process import TrustChild
from modelsync_daemon.workers import lean_imports
from modelsync_daemon.workers.messages import CONFINED_BY, Job
from modelsync_protocol.errors import RefusedError

_BUILDING, _BELIEVING = "modelsync_daemon.workers.job_runner", "modelsync_daemon.trust.tuf_refresh"
"""What preparing a version imports: the first for building, the second for what is believed."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def confine(job: Job, database: Database) -> None:
    """Give up what `job` doesn't need, and remember by which layers. `database` is open, and stays so.

    RefusedError if a layer is missing where the job says that none may. Call it on the only thread.
    """
    data = DataDir(Path(job.data))
    data.create()
    kept = [data.models, data.root / "incoming", data.zlib_verdict.parent]
    given, ports = _given(job), _ports(job.origin, job.proxy)
    if job.site is not None:
        from modelsync_daemon.transfer.site_access import SiteAccess  # only devices of a site carry it

        access = SiteAccess.parse(job.site)
        kept.append(Path(access.folder))
        given += access.files
        ports += [int(peer.rpartition(":")[2]) for peer in (access.me, *access.peers)]
    kept += [data.state_db.with_name(data.state_db.name + suffix) for suffix in ("", "-wal", "-shm")]
    in_force = layers.confine_worker(given, kept, ports)
    database.remember(CONFINED_BY, json.dumps(in_force))
    if job.require_confinement and (lacking := layers.lacking(in_force)):
        raise RefusedError(f"require_confinement is set, and {' '.join(lacking)}")


def confine_all(job: Job) -> None:
    """The same for a process that does everything itself: it keeps the data directory and the folders of secrets.

    Call it before python-tuf and aiohttp are imported: what those import for publishers and for others is left out.
    All is imported here, beside the process that works out the bounds; nothing from outside is read by then.
    """
    layers.begin_plan()
    publishers_only.leave_out()
    lean_imports.import_aiohttp()
    import_module(_BELIEVING)
    _confine_all(job)


def confine_all_but_trust(job: Job) -> TrustChild:
    """The same for one job, whose metadata a child checks as a worker's does, in the bounds of such a child.

    It imports python-tuf while this process imports what building takes: on two cores a pull is done that much sooner.
    """
    layers.begin_plan()
    lean_imports.import_aiohttp()
    layers.plan()  # known to the child too
    trust = TrustChild.start()
    _confine_all(job)
    return trust


def _confine_all(job: Job) -> None:
    import_module(_BUILDING)
    gc.freeze()
    gc.enable()  # a command may have turned it off while it imported
    data = Path(job.data)
    secrets = [path.parent for path in map(Path, job.secrets) if path.parent != data]
    layers.confine_worker([*_given(job), *secrets], [data], _ports(job.origin, job.proxy))


def _given(job: Job) -> list[Path]:
    return [Path(path) for path in (job.origin_ca, job.trust_root, job.pushed, job.media) if path is not None]


def _ports(*urls: str | None) -> list[int]:
    parts = [urlsplit(url) for url in urls if url]
    return [port for part in parts if (port := part.port or _DEFAULT_PORTS.get(part.scheme))]
