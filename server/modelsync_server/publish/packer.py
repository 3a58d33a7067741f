"""Lays a target out in packs: new frames for what is new, references to older packs for what they hold already.

Where a reference would cost devices more requests than it spares bytes, the old frame's payload is put into the new
pack as it is: encoding it again would give about the same bytes for much more time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice, takewhile
from operator import itemgetter

from modelsync_protocol import caps, codecs
from modelsync_protocol.errors import FormatError, RefusedError, UnreachableError
from modelsync_protocol.index import Index, Place
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plan import MAX_GAP_BYTES
from modelsync_server.encode import byte_candidates
from modelsync_server.encode.choice import clearly_best
from modelsync_server.encode.encoder import PACK_BYTES, SMALL_BYTES, Source, encode_again, encode_alone
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.scratch.parts import Parts
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.store import Store
from modelsync_server.store.published import read_manifest
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import Chunk

_MIN_COPY_BYTES = 16 * caps.KIB
"""A repeated chunk shorter than this stays in its frame: cutting the frame there would cost more."""

_WORTH = 0.97
"""Frames that know tensors can't be shared between versions, so they must be this much smaller."""

_MOSTLY_KEPT = 0.5
"""What old frames carry so much of, or are the pattern for, was better laid out as plain bytes before, and is again."""

Progress = Callable[[str, int, int], None]
"""`progress(step, done, total)`: a sentence fragment for people, and bytes of the target's stream."""

Key = tuple[str, ...]
"""Digests of the chunks that a frame leans on, "|", and of those that it holds."""

Known = dict[Key, tuple[Frame, str, int, int]]
"""The frame, its pack, that pack's size, its offset there (bytes)."""

ReadPack = Callable[[str, int, int], bytes]
"""`read(pack, offset, length)`: bytes of an old pack. Raises what stores raise; what it gives is not believed."""

_Stored = Payload | tuple[str, int, int]
"""A frame's payload, or where it lies: an old pack, that pack's size, the offset there (bytes)."""

_MIN_RUN_BYTES = 256 * caps.KIB


async def known_frames(store: Store, digest: str) -> Known:
    """Frames of a published version that a new one may refer to instead of storing them again."""
    manifest, index, _ = await read_manifest(store, digest)
    return frames_of(manifest, index)


def frames_of(manifest: Manifest, index: Index) -> Known:
    """The frames that an index lays a version out in, but those that need its tables."""
    known: Known = {}
    everything = list(manifest.chunks())
    places = iter(index.places)
    for op, start, chunks in _operations_with_chunks(index.operations, everything):
        if isinstance(op, Frame):
            place = next(places)
            if op.encoding in codecs.WITH_TABLES:
                continue  # its tables stay behind in the old index
            name, size = index.packs[place.pack]
            known[_frame_key(everything, start, op.prefix, chunks)] = (op, name, size, place.offset)
    return known


def _operations_with_chunks(operations: Sequence[Op], chunks: Sequence[Chunk]) -> Iterator[tuple[Op, int, list[Chunk]]]:
    position = number = 0
    for op in operations:
        first = number
        end = position + op.length
        while number < len(chunks) and chunks[number][0] < end:
            number += 1
        yield op, position, list(chunks[first:number])
        position = end


def _frame_key(all_chunks: Sequence[Chunk], start: int, prefix: int, held: Sequence[Chunk]) -> Key:
    """Frames are the same if chunks and leaned-on chunks are; a prefix may begin inside a chunk, at the same place."""
    leaned: list[str] = []
    if prefix:
        begin = start - prefix
        first = bisect_right(all_chunks, begin, key=itemgetter(0)) - 1
        for offset, _, digest in takewhile(lambda chunk: chunk[0] < start, islice(all_chunks, first, None)):
            leaned.append(f"{digest}:{max(0, begin - offset)}")
    return (*leaned, "|", *(digest for _, _, digest in held))


def pack(
    target: Source,
    known: Known,
    pool: Executor,
    progress: Progress,
    effort: Effort = Effort.DEFAULT,
    read: ReadPack | None = None,
) -> tuple[Index, dict[str, Parts]]:
    """Encode the target without a base; return its index and the new packs by digest.

    `read` brings payloads of `known` frames; None: only references to them are made.
    """
    operations: list[Op] = []
    sources: list[_Stored] = []
    if not clearly_best(target):
        operations, sources, kept = _plain(target, known, pool, progress, effort, read)
        if kept >= _MOSTLY_KEPT * target.manifest.size:
            return _place(operations, sources)
    tensors = encode_tensors(None, target, pool, aim=PACK_BYTES, effort=effort)
    if tensors is not None:
        plain = sum(op.payload_length for op in operations if isinstance(op, Frame))
        if not operations or len(tensors.tables) + sum(map(len, tensors.payloads)) < _WORTH * plain:
            return _place(tensors.operations, tensors.payloads, tensors.tables)
    return _place(operations, sources)


@dataclass(slots=True)
class _Run:
    """Chunks of the target that are encoded, or carried by old frames' payloads, in order."""

    chunks: list[Chunk]
    made: list[tuple[Frame, _Stored]] = field(default_factory=list)
    like: Frame | None = None
    """The old frame that most of it was."""


def _plain(
    target: Source, known: Known, pool: Executor, progress: Progress, effort: Effort, read: ReadPack | None
) -> tuple[list[Op], list[_Stored], int]:
    """Operations over the target as plain bytes; for each frame its payload, or its place in an old pack; and how many
    bytes of the target old frames carry, or are cut like them."""
    chunks = list(target.manifest.chunks())
    exact = _reusable(chunks, known)
    referred = _worth_a_request(exact, known)
    payloads = _Payloads(target, known, read)
    earlier: dict[str, int] = {}
    plan: list[Copy | _Run] = []
    number = 0
    while number < len(chunks):
        offset, size, digest = chunks[number]
        count = 1
        if number in referred:
            frame, name, pack_size, place = known[referred[number]]
            count = _held(referred[number])
            plan.append(_Run([], [(frame, (name, pack_size, place))]))
        elif size >= _MIN_COPY_BYTES and digest in earlier:
            _append_own_copy(plan, size, earlier[digest])
        elif made := payloads.of(chunks, number, exact, referred):
            count = made[1]
            plan.append(_Run([], [made[0]]))
        elif plan and isinstance(plan[-1], _Run) and plan[-1].chunks:
            plan[-1].chunks.append(chunks[number])
        else:
            plan.append(_Run([chunks[number]]))
        for done in chunks[number : number + count]:
            earlier.setdefault(done[2], done[0])
        number += count
        progress("packing", offset + size, target.manifest.size)
    kept = sum(frame.length for step in plan if isinstance(step, _Run) for frame, _ in step.made)
    runs = [step for step in plan if isinstance(step, _Run) and step.chunks]
    kept += _encode_all(runs, _Before(known, target, effort), target, pool, effort)
    operations: list[Op] = []
    sources: list[_Stored] = []
    for step in plan:
        if isinstance(step, Copy):
            operations.append(step)
            continue
        operations += [frame for frame, _ in step.made]
        sources += [source for _, source in step.made]
    return operations, sources, kept


class _Before:
    """Which chunks were in one frame before."""

    def __init__(self, known: Known, target: Source, effort: Effort) -> None:
        self._frame_of: dict[str, Frame] = {}
        if effort is not Effort.MAX and target.manifest.size > SMALL_BYTES:  # else everything is tried anew
            for key, (frame, *_) in known.items():
                if frame.encoding in (codecs.ZSTD, codecs.ZSTD_PATCH):
                    self._frame_of |= dict.fromkeys(key[key.index("|") + 1 :], frame)

    def parts(self, chunks: Sequence[Chunk]) -> list[_Run]:
        """Cut consecutive chunks where old frames were cut; what has become much larger or smaller is like none."""
        cut: list[_Run] = []
        for chunk in chunks:
            frame = self._frame_of.get(chunk[2])
            if not cut or (frame is not None and cut[-1].like is not None and frame is not cut[-1].like):
                cut.append(_Run([chunk], like=frame))
            else:  # what is new belongs to what it stands in
                cut[-1].chunks.append(chunk)
                cut[-1].like = frame or cut[-1].like
        joined: list[_Run] = []
        for part in cut:
            size = sum(size for _, size, _ in part.chunks)
            if part.like is None or not 0.5 <= size / part.like.length <= 1.5 or size > caps.MAX_FRAME_BYTES:
                part.like = None
            if joined and part.like is None and joined[-1].like is None:
                joined[-1].chunks += part.chunks
            else:
                joined.append(part)
        return joined


def _encode_all(runs: Sequence[_Run], before: _Before, target: Source, pool: Executor, effort: Effort) -> int:
    """Encode the runs' chunks, all at once so that all cores have work; how many bytes of them are cut as before."""
    parts = [before.parts(run.chunks) for run in runs]
    again = [part for group in parts for part in group if part.like is not None]
    made = encode_again(target, [(part.chunks, part.like.prefix) for part in again if part.like], pool, effort)
    for part, frames in zip(again, made, strict=True):
        part.made += frames
    _encode_anew([part for group in parts for part in group if part.like is None], target, pool, effort)
    for run, group in zip(runs, parts, strict=True):
        run.made += [item for part in group for item in part.made]
    return sum(size for part in again for _, size, _ in part.chunks)


def _encode_anew(runs: Sequence[_Run], target: Source, pool: Executor, effort: Effort) -> None:
    """Encode the runs' chunks by all that may be tried."""
    made = encode_alone(target, [run.chunks for run in runs], pool, effort)
    jobs: list[tuple[Frame, Payload, int]] = []
    frames = iter(made)
    counts = []
    for run in runs:
        position, end = run.chunks[0][0], run.chunks[-1][0] + run.chunks[-1][1]
        before = len(jobs)
        while position < end:
            frame, payload = next(frames)
            jobs.append((frame, payload, position))
            position += frame.length
        counts.append(len(jobs) - before)
    better = pool.map(lambda job: byte_candidates.best(job[0], job[1], job[2], None, target), jobs)
    for run, count in zip(runs, counts, strict=True):
        run.made += islice(better, count)


class _Payloads:
    """Old frames whose payloads say what the target says, whatever they leaned on in the old version."""

    def __init__(self, target: Source, known: Known, read: ReadPack | None) -> None:
        self._target = target
        self._known = known
        self._read = read
        self._by_first = _by_first_chunk(known) if read is not None else {}

    def of(
        self, chunks: Sequence[Chunk], number: int, exact: Mapping[int, Key], referred: Mapping[int, Key]
    ) -> tuple[tuple[Frame, Payload], int] | None:
        """(frame, payload) for the target from chunk `number` on, and how many chunks it holds; None if none fits."""
        if number in exact:
            keys = [exact[number]]
        else:
            keys = sorted(self._by_first.get(chunks[number][2], ()), key=_held, reverse=True)
        for key in keys:
            count = _held(key)
            held = tuple(digest for _, _, digest in chunks[number : number + count])
            inside = not any(place in referred for place in range(number + 1, number + count))
            if inside and held == key[key.index("|") + 1 :]:
                made = self._checked(self._known[key], chunks[number][0])
                return None if made is None else (made, count)
        return None

    def _checked(self, known: tuple[Frame, str, int, int], position: int) -> tuple[Frame, Payload] | None:
        """The frame and its payload, if it decodes to the target's bytes at `position` on what is before them there."""
        frame, name, _, place = known
        if self._read is None or frame.prefix > position:
            return None
        stream = self._target.stream
        try:
            payload = self._read(name, place, frame.payload_length)
            before = bytes(stream[position - frame.prefix : position])
            said = codecs.decode(frame.encoding, payload, frame.length, b"", before, b"")
        except (FormatError, RefusedError, UnreachableError):
            return None  # damaged, or not to be had: it is encoded instead
        return (frame, keep(payload)) if bytes(said) == stream[position : position + frame.length] else None


def _by_first_chunk(known: Known) -> dict[str, list[Key]]:
    by_first: dict[str, list[Key]] = {}
    for key in known:
        by_first.setdefault(key[key.index("|") + 1], []).append(key)
    return by_first


def _held(key: Key) -> int:
    """How many chunks a frame holds."""
    return len(key) - key.index("|") - 1


def _reusable(chunks: Sequence[Chunk], known: Known) -> dict[int, Key]:
    """Chunk number → the known frame that says what the target says from there on; the frames do not overlap."""
    by_first = _by_first_chunk(known)
    found: dict[int, Key] = {}
    number = 0
    while number < len(chunks):
        key_here = _longest(by_first.get(chunks[number][2], []), chunks, number, known)
        if key_here is not None:
            found[number] = key_here
        number += 1 if key_here is None else _held(key_here)
    return found


def _worth_a_request(reusable: dict[int, Key], known: Known) -> dict[int, Key]:
    """Drop frames whose run in an old pack is too short to pay for the request that a first install makes for it.

    A run is fetched by one request; runs of a payload or more may be as many as they like, of the shorter ones
    only the longest is kept. So installs need few requests however many versions the packs come from.
    """
    runs: list[list[int]] = []
    latest: dict[str, tuple[int, int]] = {}
    for number, key in reusable.items():
        frame, name, _, place = known[key]
        run, end = latest.get(name, (0, -1))
        if not 0 <= end <= place <= end + MAX_GAP_BYTES:
            run = len(runs)
            runs.append([])
        runs[run].append(number)
        latest[name] = run, place + frame.payload_length

    def payload(run: list[int]) -> int:
        return sum(known[reusable[number]][0].payload_length for number in run)

    longest = max(runs, key=payload, default=[])
    kept = [run for run in runs if run is longest or payload(run) >= _MIN_RUN_BYTES]
    return {number: reusable[number] for run in kept for number in run}


def _longest(keys: Sequence[Key], chunks: Sequence[Chunk], number: int, known: Known) -> Key | None:
    """The longest known frame that says exactly what the target says from chunk `number` on, or None."""
    best: Key | None = None
    for key in keys:
        count = _held(key)
        held = chunks[number : number + count]
        if len(held) < count or (best is not None and count <= _held(best)):
            continue
        frame = known[key][0]
        if frame.prefix <= held[0][0] and _frame_key(chunks, held[0][0], frame.prefix, held) == key:
            best = key
    return best


def _append_own_copy(plan: list[Copy | _Run], size: int, offset: int) -> None:
    last = plan[-1] if plan else None
    if isinstance(last, Copy) and last.offset + last.length == offset:
        plan[-1] = Copy(last.length + size, last.offset, own=True)
    else:
        plan.append(Copy(size, offset, own=True))


def _place(operations: Sequence[Op], sources: Sequence[_Stored], tables: bytes = b"") -> tuple[Index, dict[str, Parts]]:
    """Lay new payloads out in packs, and number all packs."""
    payloads: list[list[Payload]] = []
    size = caps.MAX_PACK_BYTES + 1
    for source in sources:
        if not isinstance(source, tuple):
            if size + len(source) > caps.MAX_PACK_BYTES:
                payloads.append([])
                size = 0
            payloads[-1].append(source)
            size += len(source)
    groups = [Parts(part) for part in payloads]
    digests = [group.digest() for group in groups]
    new = dict(zip(digests, groups, strict=True))
    packs: dict[str, int] = {}
    sizes: list[tuple[str, int]] = []
    places: list[Place] = []
    group = filled = 0
    for source in sources:
        if not isinstance(source, tuple):
            if filled + len(source) > len(groups[group]):
                group, filled = group + 1, 0
            name, size, offset = digests[group], len(groups[group]), filled
            filled += len(source)
        else:
            name, size, offset = source
        if name not in packs:
            packs[name] = len(packs)
            sizes.append((name, size))
        places.append(Place(packs[name], offset))
    return Index(tuple(sizes), tuple(operations), tuple(places), tables), new
