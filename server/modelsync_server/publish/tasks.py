"""What publishing encodes, as independent tasks: packs and manifest; a first install; the updates from one base.

A task names what it needs by digest, gives the same bytes wherever it runs, puts them into the store itself and answers
with names, sizes and digests. It knows no keys; who signs checks what it says (`objects.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modelsync_protocol import canonical, codecs, manifest, names, update
from modelsync_protocol.errors import FormatError, RefusedError
from modelsync_protocol.index import encode_object
from modelsync_protocol.plan import NOTHING
from modelsync_server.cache import stream_cache
from modelsync_server.encode.choice import clearly_best, smallest_update
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.low_rank.adapters import Adapter, read_adapter
from modelsync_server.plain.candidate import WORTH, spared_bytes
from modelsync_server.publish import staging
from modelsync_server.publish.advice import Advice, advise, advise_merged
from modelsync_server.publish.newer import first_installs, newer_updates, through_views
from modelsync_server.publish.packer import Known, Progress, ReadPack, known_frames, pack
from modelsync_server.publish.uploader import put, upload
from modelsync_server.scratch.mapped_file import mapped
from modelsync_server.scratch.parts import Parts
from modelsync_server.scratch.places import temporary_folder
from modelsync_server.store import ObjectNotFound, Store, open_store
from modelsync_server.store.plain_views import scratch
from modelsync_server.store.published import check_chunks, materialised
from modelsync_server.tensors.effort import Effort

_WORTH_BYTES = 32
"""An update in a newer format has to be so much smaller to stand beside the old one: it costs a line in a parcel."""

_WORTH_ADVICE_BYTES = 4096
"""Smaller updates hold no factors of a merged adapter; reading the header of thousands of files back takes time."""

_log = logging.getLogger(__name__)

Kind = Literal["packs", "install", "update"]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for the version whose manifest has the digest `target`.

    `packs` are made with the frames of the first of `known` that is whole; an `install` (from nothing) or an `update`
    from the version `base` is kept if it is smaller than a first install from packs, `install` bytes. `advise`: say
    what would have made it cheaper. `adapter`: the digest of the file of what was merged, `adapter_name` its own name.
    """

    kind: Kind
    target: str
    base: str = NOTHING.digest
    known: tuple[str, ...] = ()
    install: int = 0
    advise: bool = False
    adapter: str | None = None
    adapter_name: str = ""
    effort: str = Effort.DEFAULT.value

    @property
    def title(self) -> str:
        """For sentences."""
        if self.kind == "update":
            return f"the update from {self.base[:12]}… to {self.target[:12]}…"
        return f"the {'packs' if self.kind == 'packs' else 'first install'} of {self.target[:12]}…"

    @property
    def key(self) -> str:
        """The same for the same task: a part of an object's name."""
        return f"{self.kind}-{canonical.digest(canonical.encode(self.document()))[:32]}"

    def document(self) -> dict[str, Any]:
        """JSON values; `of` reads them."""
        return asdict(self) | {"known": list(self.known)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Task:
        return cls(**{**document, "known": tuple(document["known"])})


@dataclass(frozen=True, slots=True)
class Written:
    """An object that lies in the store: its path there, its bytes, their SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """What a task put into the store, the advice on it, and why it could do nothing, if so."""

    objects: tuple[Written, ...] = ()
    advice: tuple[Advice, ...] = ()
    skipped: str = ""

    def document(self) -> dict[str, Any]:
        """JSON values; `of` reads them."""
        return {
            "objects": [[each.path, each.size, each.sha256] for each in self.objects],
            "advice": [[each.text, each.bytes] for each in self.advice],
            "skipped": self.skipped,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Done:
        """RefusedError for anything but a task's document."""
        try:
            objects = tuple(Written(str(path), int(size), str(digest)) for path, size, digest in document["objects"])
            advice = tuple(Advice(str(text), count) for text, count in document["advice"])
            return cls(objects, advice, str(document["skipped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"a worker's answer can't be read ({error}); nothing was signed.") from error


async def work(store: str, task: dict[str, Any], staged: str | None, threads: int | None, kept: bool) -> dict[str, Any]:
    """A worker's call: do the task with what is staged in a folder of this machine, or in the store (None).

    `kept`: leave word in the store that it is done.
    """
    wanted, objects = Task.of(task), open_store(store)
    with temporary_folder("modelsync-task-") as folder:
        async with _target(objects, wanted.target, staged) as target:
            adapter = None
            if wanted.adapter is not None:
                file = await staging.adapter(objects, wanted.target, wanted.adapter, staged, folder)
                adapter = replace(read_adapter(file), path=Path(wanted.adapter_name))
            with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
                done = await perform(objects, wanted, target, adapter, pool)
    if kept:
        await keep(objects, wanted, done)
    return done.document()


async def keep(store: Store, task: Task, done: Done) -> None:
    """Leave word in the store that a task is done, for whoever publishes the same bytes after an interruption."""
    await staging.put(store, staging.object_of(task.target, task.key), canonical.encode(done.document()))


@asynccontextmanager
async def _target(store: Store, digest: str, staged: str | None) -> AsyncIterator[Source]:
    """What is to be published, its bytes checked where they came over a network."""
    if staged is not None:
        folder = Path(staged)
        with mapped(folder / staging.STREAM) as stream:
            yield Source(_manifest((folder / staging.MANIFEST).read_bytes(), digest), stream)
        return
    found = _manifest(await store.get(staging.object_of(digest, staging.MANIFEST)), digest)
    with scratch(found.size) as area:
        await staging.read_into(store, staging.object_of(digest, staging.STREAM), area)
        source = Source(found, area)
        check_chunks(source)
        yield source


def _manifest(data: bytes, digest: str) -> manifest.Manifest:
    found = manifest.decode(data)
    if found.digest != digest:
        raise RefusedError(f"what is staged as {digest[:12]}… is another version; publish again.")
    return found


async def perform(
    store: Store,
    task: Task,
    target: Source,
    adapter: Adapter | None,
    pool: Executor,
    progress: Progress = lambda step, done, total: None,
) -> Done:
    """Do a task here. May be repeated: what is in the store already stays, and is what the answer names."""
    if task.kind == "packs":
        return await _packs(store, task, target, pool, progress)
    if task.kind == "install":
        nothing = Source(NOTHING, memoryview(b""))
        effort = Effort(task.effort)
        made = await asyncio.to_thread(lambda: [*first_installs(nothing, target, pool, effort, task.install)])
        data = min((UpdateObject.of(nothing, target, each) for each in made), key=len, default=None)
        path = names.update_object(task.target, NOTHING.digest, codecs.NEWEST_VERSION)
        worth = data is not None and len(data) < WORTH * task.install
        return Done((await _create(store, path, data.parts),) if data is not None and worth else ())
    return await _update(store, task, target, adapter, pool, progress)


async def _packs(store: Store, task: Task, target: Source, pool: Executor, progress: Progress) -> Done:
    """Packs first, then the manifest that refers to them."""
    progress("packing", 0, target.manifest.size)
    tensors = await asyncio.to_thread(clearly_best, target)
    known = {} if tensors else await _known(store, task)  # frames of tensors are nobody else's
    read = _reader(store, asyncio.get_running_loop())
    index, packs = await asyncio.to_thread(pack, target, known, pool, progress, Effort(task.effort), read)
    await upload(store, {names.pack_object(name): data for name, data in packs.items()}, progress)
    written = [Written(names.pack_object(name), len(data), name) for name, data in packs.items()]
    path = names.manifest_object(task.target)
    await asyncio.to_thread(stream_cache.keep, target)
    return Done((*written, await _create(store, path, Parts([encode_object(target.manifest, index)]))))


def _reader(store: Store, loop: asyncio.AbstractEventLoop) -> ReadPack:
    """Reads packs from other threads while `loop` runs."""

    def read(name: str, offset: int, length: int) -> bytes:
        wanted = store.get_range(names.pack_object(name), offset, length)
        return asyncio.run_coroutine_threadsafe(wanted, loop).result()

    return read


async def _known(store: Store, task: Task) -> Known:
    """Frames of the newest version that is whole; a damaged store must not stop its repair, nor spread the damage."""
    for base in task.known:
        try:
            async with materialised(store, base) as source:
                stream_cache.keep(source)
                return await known_frames(store, base)
        except (ObjectNotFound, FormatError) as error:
            _log.warning("%s… can't be built on: %s", base[:12], error)
    return {}


async def _update(
    store: Store, task: Task, target: Source, adapter: Adapter | None, pool: Executor, progress: Progress
) -> Done:
    advice: list[Advice] = []
    try:
        async with stream_cache.stream_of(store, task.base) as source:
            made = await asyncio.to_thread(updates, source, target, task.install, pool, adapter, Effort(task.effort))
            if task.advise:
                progress("measuring", 0, target.manifest.size)
                smallest = min(made.values(), key=len)
                advice = await asyncio.to_thread(advise, source, target, len(smallest), pool)
                if adapter is not None or len(smallest) >= _WORTH_ADVICE_BYTES:
                    advice += advise_merged(smallest.header, len(smallest), source.manifest, adapter)
    except (ObjectNotFound, FormatError) as error:
        return Done(skipped=f"no update is made from {task.base[:12]}…: {error}")
    paths = {names.update_object(task.target, task.base, version): data for version, data in made.items()}
    written = [await _create(store, path, data.parts) for path, data in paths.items() if len(data) < task.install]
    return Done(tuple(written), tuple(advice))


async def _create(store: Store, path: str, data: Parts) -> Written:
    """Put an object where it belongs; one that is there stays, and is what counts."""
    if not await put(store, path, data):
        return Written(path, *await staging.size_and_digest(store, path))
    return Written(path, len(data), await asyncio.to_thread(data.digest))


def updates(
    base: Source,
    target: Source,
    install: int,
    pool: Executor,
    adapter: Adapter | None = None,
    effort: Effort = Effort.DEFAULT,
) -> dict[int, UpdateObject]:
    """The update objects by version of their format: the first, and the newest where it is really smaller.

    There is none of the first where all that changed is compressed: it would be no smaller than a first install.
    """
    plain = through_views(base, target, pool, adapter, effort)
    through = None if plain is None else UpdateObject.of(base, target, plain)
    if plain is not None and through is not None and len(through) < WORTH * install < spared_bytes(plain):
        return {codecs.NEWEST_VERSION: through}
    oldest = smallest_update(base, target, pool, effort=effort)
    made = {1: UpdateObject.of(base, target, oldest)}
    if through is not None and len(through) < WORTH * len(made[1]):
        made[codecs.NEWEST_VERSION] = through
    for better in newer_updates(base, target, oldest, pool, adapter, effort):
        data = UpdateObject.of(base, target, better)
        if len(data) + _WORTH_BYTES < len(made.get(codecs.NEWEST_VERSION, made[1])):
            made[codecs.NEWEST_VERSION] = data
    return made


@dataclass(frozen=True, slots=True)
class UpdateObject:
    """An update object in parts; `header` is its first. `len()` is its size in bytes."""

    header: bytes
    parts: Parts

    @classmethod
    def of(cls, base: Source, target: Source, encoded: Encoded) -> UpdateObject:
        """The object that carries what was encoded."""
        header = update.encode_header(base.manifest, target.manifest, encoded.operations, encoded.tables, encoded.views)
        return cls(header, Parts([header, *encoded.payloads]))

    def __len__(self) -> int:
        return len(self.parts)
