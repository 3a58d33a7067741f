"""Gets a version's objects into the store: which tasks there are, where they run, and whether what they say is true.

Without an engine the tasks run here, one after the other, each with all cores; with one they run on its workers, and
nothing that a worker says is taken for granted: every object is read back before anything may be signed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol import canonical, caps, codecs, names, update
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_protocol.index import decode_object
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.plan import NOTHING
from modelsync_server.encode.encoder import Source
from modelsync_server.engine.port import Call, Engine
from modelsync_server.low_rank.adapters import Adapter
from modelsync_server.publish import price, staging
from modelsync_server.publish.advice import Advice
from modelsync_server.publish.artifact import Artifact
from modelsync_server.publish.packer import Progress
from modelsync_server.publish.tasks import Done, Task, Written, keep, perform
from modelsync_server.store import MemoryStore, Store
from modelsync_server.store.published import has_manifest, read_manifest, sizes_by_version
from modelsync_server.tensors.effort import Effort
from modelsync_server.trust.metadata import now

KEPT_FROM_BYTES = 4 * caps.MIB
"""Of larger targets it is kept what is done already: doing smaller ones again costs less than saying so."""

_RECORD_BYTES = caps.MIB
"""Longest word that a task leaves: a few names, digests and sentences."""

_QUIET_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """How a version's objects came about: `tasks` in all; of them `resumed`, done by an interrupted publication; and
    `retried`, begun again since a worker died."""

    tasks: int = 0
    resumed: int = 0
    retried: int = 0


async def write_objects(
    store: Store,
    artifact: Artifact,
    bases: Sequence[str],
    adapter: Adapter | None,
    engine: Engine | None,
    progress: Progress,
    effort: Effort = Effort.DEFAULT,
) -> tuple[list[Advice], Work]:
    """Write packs, the manifest that refers to them, and updates; advice on the first of the updates, and what it took.

    What an interrupted call put into the store is not made again. Once what is written is signed, call `finished`.
    """
    writing = await _Writing.begin(store, artifact, adapter, engine, progress)
    digest = artifact.manifest.digest
    if not await has_manifest(store, digest):
        await writing.run([Task("packs", digest, known=tuple(bases), effort=effort.value)])
    install = await price.install_bytes(store, digest)
    tasks: list[Task] = []
    if install > caps.MAX_ENCLOSED_BYTES:  # what is smaller comes in a parcel
        tasks.append(Task("install", digest, install=install, effort=effort.value))
    tasks += [
        Task(
            "update",
            digest,
            base,
            install=install,
            advise=base == bases[0] and effort is not Effort.FAST,
            adapter=writing.adapter,
            adapter_name=writing.adapter_name,
            effort=effort.value,
        )
        for base in bases
        if base != digest
    ]
    if not writing.interrupted:  # else what is there may be the first of two objects
        present = set().union(*(await sizes_by_version(store, digest)).values())
        tasks = [task for task in tasks if task.base not in present]
    done = await writing.run(tasks)
    for one in done:
        if one.skipped:
            _log.warning("%s", one.skipped)
    return [advice for one in done for advice in one.advice], writing.work


async def finished(store: Store, manifest: Manifest, engine: Engine | None) -> None:
    """What `write_objects` wrote is signed: forget how it came about."""
    if manifest.size >= KEPT_FROM_BYTES or (engine is not None and not engine.shares_disk):
        await staging.end(store, manifest.digest)


class _Writing:
    """One call of `write_objects`: where its tasks run, and what of them is done."""

    def __init__(
        self, store: Store, artifact: Artifact, adapter: Adapter | None, engine: Engine | None, progress: Progress
    ) -> None:
        self._store = store
        self._artifact = artifact
        self._engine = engine
        self._progress = progress
        self._merged = adapter
        self._staged: str | None = None
        self._left: set[str] = set()
        self._kept = artifact.manifest.size >= KEPT_FROM_BYTES
        self.adapter: str | None = None
        self.adapter_name = "" if adapter is None else adapter.path.name
        self.work = Work()

    @classmethod
    async def begin(
        cls, store: Store, artifact: Artifact, adapter: Adapter | None, engine: Engine | None, progress: Progress
    ) -> _Writing:
        """Look for what an interrupted publication of these bytes left. UsageError if workers can't see the store."""
        if engine is not None and isinstance(store, MemoryStore):
            raise UsageError("a store in memory is in one process only: publish without an engine, or to a directory.")
        writing = cls(store, artifact, adapter, engine, progress)
        if adapter is not None:
            writing.adapter = hashlib.sha256(adapter.path.read_bytes()).hexdigest()
        if writing._kept:
            writing._left = await staging.begin(store, artifact.manifest.digest, now())
        return writing

    @property
    def interrupted(self) -> bool:
        """Whether a publication of these bytes ended before it was signed."""
        return staging.BEGUN in self._left

    async def run(self, tasks: Sequence[Task]) -> list[Done]:
        """Do what is not done yet; what every task gave, in their order."""
        found = [await self._resumed(task) for task in tasks]
        missing = [task for task, done in zip(tasks, found, strict=True) if done is None]
        made = iter(await (self._here(missing) if self._engine is None else self._there(missing, self._engine)))
        resumed = len(tasks) - len(missing)
        retried = 0 if self._engine is None else self._engine.retried
        self.work = Work(self.work.tasks + len(tasks), self.work.resumed + resumed, retried)
        return [next(made) if done is None else done for done in found]

    async def _here(self, tasks: Sequence[Task]) -> list[Done]:
        target = Source(self._artifact.manifest, self._artifact.stream)
        result: list[Done] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            updates = [task for task in tasks if task.kind == "update"]
            for task in tasks:
                number = updates.index(task) + 1 if task in updates else 0
                told = ToldPool(pool, self._progress)
                told.progress(_step(task, number, len(updates)), 0, target.manifest.size)
                result.append(await perform(self._store, task, target, self._merged, told, told.progress))
                if self._kept:
                    await keep(self._store, task, result[-1])
        return result

    async def _there(self, tasks: Sequence[Task], engine: Engine) -> list[Done]:
        if not tasks:
            return []
        await self._stage(engine)
        threads, size = engine.threads(len(tasks)), self._artifact.manifest.size
        calls = [
            Call(
                "modelsync_server.publish.tasks:work",
                {
                    "store": self._store.url,
                    "task": task.document(),
                    "staged": self._staged,
                    "threads": threads,
                    "kept": self._kept,
                },
                task.title,
            )
            for task in tasks
        ]
        ended = 0

        def count(number: int, answer: Any) -> None:
            nonlocal ended
            ended += 1
            self._progress(f"encoding, {ended} of {len(tasks)}", ended * size, len(tasks) * size)

        self._progress(f"encoding, 0 of {len(tasks)}", 0, len(tasks) * size)
        done = [Done.of(answer) for answer in await engine.run(calls, count)]
        for task, one in zip(tasks, done, strict=True):
            await check(self._store, task, one, self._artifact.manifest)
        return done

    async def _stage(self, engine: Engine) -> None:
        """Lay the inputs where workers find them: beside the copy of the artifact, or in the store."""
        manifest, folder = self._artifact.manifest, self._artifact.path.parent
        adapter = None if self._merged is None else self._merged.path.read_bytes()
        if engine.shares_disk:
            if self._staged is None:
                (folder / staging.MANIFEST).write_bytes(manifest.encoded)
                if adapter is not None:
                    (folder / staging.adapter_name(str(self.adapter))).write_bytes(adapter)
                self._staged = str(folder)
            return
        self._progress("staging", 0, manifest.size)
        inputs: dict[str, bytes | Path] = {staging.MANIFEST: manifest.encoded, staging.STREAM: self._artifact.path}
        if adapter is not None:
            inputs[staging.adapter_name(str(self.adapter))] = adapter
        for name, source in inputs.items():
            await staging.put(self._store, staging.object_of(manifest.digest, name), source)

    async def _resumed(self, task: Task) -> Done | None:
        """What an interrupted publication did of a task, if that still stands in the store."""
        if task.key not in self._left:
            return None
        path = staging.object_of(task.target, task.key)
        try:
            document = canonical.decode(await self._store.get(path), what=path, limit=_RECORD_BYTES)
            done = Done.of(document)
            await check(self._store, task, done, self._artifact.manifest)
        except RefusedError as error:
            _log.warning("%s is done again: %s", task.title, error)
            return None
        return done


class ToldPool(Executor):
    """A pool that tells how far each pass over its jobs is, as a stage of its own: "update 1 of 3, pass 2".

    Encoding goes over all that changed several times, and how often is known only at the end. So each pass counts from
    nothing to all bytes of the target, by the share of its jobs that are done. `quiet`: seconds that a pass has to
    take to be told of.
    """

    def __init__(self, pool: Executor, progress: Progress, quiet: float = _QUIET_SECONDS) -> None:
        self._pool, self._progress, self._quiet = pool, progress, quiet
        self._step, self._size, self._passes = "", 0, 0

    def progress(self, step: str, done: int, total: int) -> None:
        """Hand on; the passes that follow are of `step`."""
        if step != self._step:
            self._step, self._size, self._passes = step, total, 0
        self._progress(step, done, total)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the pool's own: one job is no pass."""
        return self._pool.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """As the pool's own, and told of."""
        jobs = [*zip(*iterables, strict=False)]
        self._passes += 1
        stage, size, begin = f"{self._step}, pass {self._passes}", self._size, time.monotonic()
        lock, done = threading.Lock(), 0

        def one(job: tuple[Any, ...]) -> Any:
            nonlocal done
            result = fn(*job)
            with lock:  # told in order
                done += 1
                if time.monotonic() - begin >= self._quiet:
                    self._progress(stage, size * done // len(jobs), size)
            return result

        return self._pool.map(one, jobs, timeout=timeout, chunksize=chunksize)


def _step(task: Task, number: int, count: int) -> str:
    if task.kind == "update":
        return f"update {number} of {count}"
    return "packing" if task.kind == "packs" else "first install"


async def check(store: Store, task: Task, done: Done, target: Manifest) -> None:
    """RefusedError unless all that a task says it wrote lies in the store, is what it says, and is of that task."""
    for written in done.objects:
        if written.path not in _expected(task, written):
            raise RefusedError(
                f"a worker wrote {written.path[:200]!r}, which is no part of {task.title}; nothing was signed."
            )
        try:
            found = await staging.size_and_digest(store, written.path)
            if found != (written.size, written.sha256):
                raise RefusedError("its bytes are not those that its worker made")
            if task.kind != "packs":
                await _check_update(store, written, task, target)
            elif written.path == names.manifest_object(task.target):
                await _check_packs(store, written, done)
        except RefusedError as error:
            raise RefusedError(
                f"{written.path} can't be believed: {str(error).rstrip('.')}; nothing was signed. "
                "Delete it and publish again."
            ) from error
    if task.kind == "packs" and names.manifest_object(task.target) not in {each.path for each in done.objects}:
        raise RefusedError(f"a worker wrote no manifest for {task.title}; nothing was signed. Publish again.")


def _expected(task: Task, written: Written) -> tuple[str, ...]:
    """The paths that an object of a task may have."""
    if task.kind == "packs":
        return names.pack_object(written.sha256), names.manifest_object(task.target)
    return tuple(
        names.update_object(task.target, task.base, version) for version in range(1, codecs.NEWEST_VERSION + 1)
    )


async def _check_packs(store: Store, written: Written, done: Done) -> None:
    """The manifest object is the target's, and every pack that it names is there, as long as it says."""
    _, index = decode_object(await store.get(written.path), written.path.rpartition("/")[2])
    made = {each.path: each.size for each in done.objects}
    for name, size in index.packs:
        path = names.pack_object(name)
        if made.get(path, size) != size or (await store.stat(path)).size != size:
            raise RefusedError(f"it names {path} with another size")


async def _check_update(store: Store, written: Written, task: Task, target: Manifest) -> None:
    """An update's header is for that base and target, and as many payload bytes follow as it says."""
    data = await store.get_range(written.path, 0, update.PREAMBLE_BYTES)
    preamble = update.decode_preamble(data)
    if preamble is None or not written.path.endswith(f".v{preamble.version}"):
        raise RefusedError("it is of another version of the format, or cut short")
    base = NOTHING if task.base == NOTHING.digest else (await read_manifest(store, task.base))[0]
    stored = await store.get_range(written.path, preamble.offset, preamble.stored)
    header = update.decode_header(preamble, stored, base)
    if header.target.skeleton != target.skeleton or header.payload_bytes != written.size - preamble.payload_offset:
        raise RefusedError("it is for another version, or not whole")
