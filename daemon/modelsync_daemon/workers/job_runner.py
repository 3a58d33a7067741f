"""Runs one job with pipeline.py in this process: the worker's body, and `modelsyncd pull`'s. It decides nothing.

Imported only where the heavy imports (tuf, zstandard, numpy) are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelsync_daemon.build.pipeline import prepare
from modelsync_daemon.build.request import Listener, PrepareRequest, Trust
from modelsync_daemon.disk.database import Database
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_daemon.workers.messages import Job, Outcome


class _Listener:
    """Persists each state before it takes effect, and passes everything on.

    A restart goes on from any of them as from `resolving`, so the disk is not waited for.
    """

    def __init__(self, name: str, database: Database, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._name, self._database, self._emit = name, database, emit

    def state(self, state: str) -> None:
        self._database.transition(self._name, state, synced=False)
        self._emit({"event": "state", "state": state})

    def progress(self, done: int, total: int) -> None:
        self._emit({"event": "progress", "done": done, "total": total})

    def wire(self, received_delta: int, sent_delta: int) -> None:
        self._emit({"event": "wire", "received": received_delta, "sent": sent_delta})

    def site(self, received_delta: int, sent_delta: int, wasted_delta: int) -> None:
        self._emit({"event": "site", "received": received_delta, "sent": sent_delta, "wasted": wasted_delta})

    def neighbour(self, target: str, holder: str, *, wrong: bool) -> None:
        self._emit({"event": "neighbour", "object": target, "holder": holder, "wrong": wrong})


class _Quiet:
    """Tells nobody."""

    def state(self, state: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def wire(self, received_delta: int, sent_delta: int) -> None:
        """Nothing."""

    def site(self, received_delta: int, sent_delta: int, wasted_delta: int) -> None:
        """Nothing."""

    def neighbour(self, target: str, holder: str, *, wrong: bool) -> None:
        """Nothing."""


class _Counting(_Quiet):
    """Passes on what the wire carried, and nothing else."""

    def __init__(self, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._emit = emit

    def wire(self, received_delta: int, sent_delta: int) -> None:
        """The increments."""
        self._emit({"event": "wire", "received": received_delta, "sent": sent_delta})

    def site(self, received_delta: int, sent_delta: int, wasted_delta: int) -> None:
        """The increments."""
        self._emit({"event": "site", "received": received_delta, "sent": sent_delta, "wasted": wasted_delta})

    def neighbour(self, target: str, holder: str, *, wrong: bool) -> None:
        """Who gave what."""
        self._emit({"event": "neighbour", "object": target, "holder": holder, "wrong": wrong})


async def run(
    job: Job,
    database: Database,
    emit: Callable[[Mapping[str, Any]], None],
    open_trust: Callable[[Path], Trust] | None = None,
    read_secret: Callable[[Path], str | None] | None = None,
) -> Outcome:
    """Do `job`, telling `emit` of every event; `open_trust` and `read_secret` as of prepare; without
    `open_trust` trust is checked in this process. Raises ModelsyncError.
    """
    request = PrepareRequest(
        name=job.name,
        version=job.version,
        origin=job.origin,
        data=Path(job.data),
        origin_ca=None if job.origin_ca is None else Path(job.origin_ca),
        trust_root=None if job.trust_root is None else Path(job.trust_root),
        stall_seconds=job.stall_seconds,
        rate_limit=job.rate_limit,
        byte_limit=job.byte_limit,
        update_limit=job.update_limit,
        network=job.network,
        quarantined=frozenset(job.quarantined),
        secrets=tuple(Path(path) for path in job.secrets),
        proxy=job.proxy,
        pushed=None if job.pushed is None else Path(job.pushed),
        media=None if job.media is None else Path(job.media),
        repair=job.repair,
        read_secret=read_secret,
        site=None if job.site is None else SiteAccess.parse(job.site),
        anew=job.anew,
        capabilities=job.capabilities,
        refuse_unknown=job.refuse_unknown,
    )
    # What is only staged or mended leaves the model's state alone: it goes on as it is.
    listener: Listener = _Listener(job.name, database, emit)
    if job.pushed is not None:
        listener = _Quiet()
    elif job.repair is not None:
        listener = _Counting(emit)
    prepared = await prepare(request, database, listener, open_trust or TrustStore)
    return Outcome(
        name=prepared.name,
        version=prepared.version,
        digest=prepared.digest,
        held=prepared.held,
        kind=prepared.plan.kind,
        bytes=prepared.plan.bytes,
        requests=prepared.plan.requests,
        received=prepared.wire.received,
        sent=prepared.wire.sent,
        wire_requests=prepared.wire.requests,
        withdrawn=tuple(sorted(prepared.withdrawn)),
        unknown=prepared.unknown,
    )
