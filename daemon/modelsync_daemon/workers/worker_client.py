"""Starts the worker child for a job and listens to it: the resident's side of worker.py. One worker at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from modelsync_daemon.disk.datadir import Lock
from modelsync_daemon.transfer import origin_secret
from modelsync_daemon.transfer.errors import Misled
from modelsync_daemon.workers import suspicion
from modelsync_daemon.workers.messages import MAX_TEXT, EventCallback, Job, Outcome, WorkerDied, error_of
from modelsync_daemon.workers.ready import Ready
from modelsync_daemon.workers.suspicion import Given, Suspicion
from modelsync_daemon.workers.zygote import Zygote, ZygoteGone

_log = logging.getLogger(__name__)

_LINE_BYTES = 1024 * 1024
_MOST_LOGGED = 200
"""Records of one job: the worker reads what strangers wrote, and must not fill the log."""
WORKER_COMMAND = (sys.executable, "-P", "-m", "modelsync_daemon.workers.worker")


class Child(Protocol):
    """A running worker; asyncio's Process is one."""

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """Where the job is written."""

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Where events are read."""

    def kill(self) -> None:
        """SIGKILL; ProcessLookupError if it has ended."""

    async def wait(self) -> int:
        """The exit code, or minus the signal."""


class ChildPreparer:
    """A Preparer that does each job in a short-lived child process, so that its memory comes back.

    Children are forked off `zygote` where there is one that lives, else started with `command`. Who gives one
    calls `close` in the end.
    """

    def __init__(
        self,
        lock: Lock,
        command: Sequence[str] = WORKER_COMMAND,
        zygote: Zygote | None = None,
        *,
        always_ready: bool = False,
    ) -> None:
        """`always_ready`: a worker of the zygote waits with everything imported, not only after a notice."""
        self._lock = lock
        self._command = tuple(command)
        self._zygote = zygote
        self._one = asyncio.Semaphore(1)
        self._ready: Ready | None = None
        if zygote is not None:
            self._ready = Ready(lambda: zygote.spawn(lock.fileno(), ahead=True), self._one, always=always_ready)
        self._ending: asyncio.Future[None] | None = None
        self._suspicion = Suspicion()
        self._given: dict[str, Given] = {}
        """What neighbours gave of a model since it was last done; of one that is not here an earlier daemon knew."""

    def expect(self) -> None:
        """A job may come soon: a worker is made ready for it, where there is a zygote."""
        if self._ready is not None:
            self._ready.expect()

    async def close(self) -> None:
        """End what waits for a job, and wait for who is done with one; jobs themselves end with their callers."""
        if self._ending is not None:
            await self._ending
        if self._ready is not None:
            await self._ready.close()

    async def prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        """Do `job` in a child; cancelling kills the child before it returns. Raises ModelsyncError.

        Where neighbours misled it, it is done again with what the origin says; where it died of what they gave, without
        them and from its beginning, and they are not asked for these objects again.
        """
        if job.site is None:
            return await self._prepare(job, on_event)
        known = job.name in self._given
        given = self._given.setdefault(job.name, {})

        def listen(event: Mapping[str, Any]) -> None:
            if event["event"] != "neighbour":
                on_event(event)
            elif suspicion.read(event, job.site or {}, given):
                self._suspicion.add({str(event["object"]): {event["holder"]}})

        job = replace(job, site=self._suspicion.tell(job.site))
        try:
            outcome = await self._shared(job, listen)
        except WorkerDied as error:
            if known and not given:
                raise
            _log.warning("%s What neighbours gave may have killed it: it is done again without them.", error)
            _forget(job, given)
            outcome = await self._without(job, given, on_event)
        self._given[job.name] = {}
        return outcome

    async def _without(self, job: Job, given: Given, on_event: EventCallback) -> Outcome:
        """Do `job` from its beginning, without those who gave `given`; they are suspected, unless it dies again."""
        try:
            outcome = await self._prepare(replace(job, site=None, anew=True), on_event)
        except WorkerDied:
            raise
        except BaseException:
            self._suspicion.add(given)
            raise
        self._suspicion.add(given)
        return outcome

    async def _shared(self, job: Job, on_event: EventCallback) -> Outcome:
        """Do `job` together with neighbours."""
        try:
            return await self._prepare(job, on_event)
        except Misled as error:
            _log.warning("%s It is asked of the origin.", error)
            return await self._prepare(replace(job, site={**(job.site or {}), "fresh": True}), on_event)

    async def _prepare(self, job: Job, on_event: EventCallback) -> Outcome:
        await self._one.acquire()
        try:
            child = await self._start()
        except BaseException as error:
            self._one.release()
            if isinstance(error, OSError):
                raise WorkerDied(f"the worker can't be started ({error.strerror}); free some memory.") from error
            raise
        try:
            outcome = await self._converse(child, job, on_event)
        except BaseException:
            await self._end(child)
            raise
        if self._zygote is None:
            await self._end(child)
        else:  # what it brought is durable and its database closed: nobody has to wait until its memory is gone too
            self._ending = asyncio.ensure_future(self._end(child))
        return outcome

    async def _end(self, child: Child) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
            if self._ready is not None:
                self._ready.used()
        finally:
            self._one.release()

    async def _start(self) -> Child:
        if self._ready is not None and (waiting := await self._ready.take()) is not None:
            return waiting
        if self._zygote is not None:
            try:
                return await self._zygote.spawn(self._lock.fileno())
            except ZygoteGone as error:
                _log.warning("workers are started as fresh processes from now on: %s", error)
                self._zygote = self._ready = None
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._lock.fileno(),),
            limit=_LINE_BYTES,
        )

    async def _converse(self, child: Child, job: Job, on_event: EventCallback) -> Outcome:
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(ConnectionError):  # a child that died at once shows as the end of its output
            child.stdin.write(json.dumps(job.document()).encode() + b"\n")
            await child.stdin.drain()
        logged = 0
        async for line in child.stdout:
            try:
                event = json.loads(line)
                kind = event["event"]
                if kind == "result":
                    outcome = Outcome.parse(event["outcome"])
                    if outcome.name != job.name or job.version not in (None, outcome.version):
                        raise ValueError("this is not what was asked for")
                    return outcome
                if kind == "error":
                    raise error_of(event["kind"], event["text"], event)
                if kind == "secret":
                    child.stdin.write(json.dumps({"text": _secret(job, event["path"])}).encode() + b"\n")
                    continue
                if kind == "log":
                    logged += 1
                    if logged <= _MOST_LOGGED:
                        level = min(max(int(event["level"]), logging.INFO), logging.ERROR)
                        _log.log(level, "%s: %s", job.name, str(event["text"])[:MAX_TEXT], extra={"model": job.name})
                    continue
                on_event(event)
            except (ValueError, KeyError, TypeError) as error:
                raise WorkerDied(f"the worker said something unknown ({error}); reinstall modelsync.") from error
        code = await child.wait()
        reason = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise WorkerDied(f"the worker {reason} before it was done; see whether memory ran out.")


def _forget(job: Job, given: Given) -> None:
    """Offer no neighbour what may have killed a worker here."""
    from modelsync_daemon.disk.spool import Spool  # only devices with neighbours carry it

    site = job.site or {}
    for target in given:
        Spool(Path(site["folder"]), site["quota"]).drop(target)


def _secret(job: Job, path: str) -> str | None:
    """What a file holds that the job names as a secret's; of no other."""
    return origin_secret.read_text(Path(path)) if path in job.secrets else None
