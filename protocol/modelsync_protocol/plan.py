"""The plan: the cheapest way from what is held to a target. Pure; shared by daemon, publisher and price list.

What is predicted here is what is fetched: the daemon carries these steps out, and `publish` and `price` count them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from modelsync_protocol import caps, codecs, names
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.index import Index
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.offers import Offer, base_key
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.update import Update

MAX_GAP_BYTES = 32 * caps.KIB
"""Ranges of a pack that lie no further apart are fetched in one request: so much costs less than a round trip."""

OWN = -1
"""Seed number of the target itself."""


class Kind(StrEnum):
    """How a target is reached."""

    HELD = "held"
    PUSHED = "pushed"
    UPDATE = "update"
    CHUNKS = "chunks"
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class Request:
    """One GET: `length` bytes of `path` from `offset`; `whole` if that is the entire object."""

    path: str
    offset: int
    length: int
    whole: bool


@dataclass(frozen=True, slots=True)
class CopyStep:
    """`length` bytes from `offset` of seed number `seed`'s stream (OWN: the target's) to the target at `target`."""

    target: int
    length: int
    seed: int
    offset: int


@dataclass(frozen=True, slots=True)
class FrameStep:
    """A frame to the target at `target`; its payload begins `place` bytes into request number `request`.

    A base range, if any, is of seed 0's stream.
    """

    target: int
    frame: Frame
    request: int
    place: int

    @property
    def length(self) -> int:
        """Decoded bytes."""
        return self.frame.length


Step = CopyStep | FrameStep


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of the target's stream, the requests they read from, and what it all costs.

    `bytes` are bodies from manifests/, packs/ and updates/; `http_requests` counts the same set. `seeds` are the
    digests of the manifests that steps copy from.
    """

    kind: Kind
    bytes: int
    http_requests: int
    seeds: tuple[str, ...]
    steps: Collection[Step]
    requests: tuple[Request, ...]
    tables: Tables = b""
    """What the frames share."""

    def payload_bytes(self, first: int = 0, end: int | None = None) -> int:
        """Sum of the payloads of the steps from `first` to before `end`."""
        steps = islice(self.steps, first, end)
        return sum(step.frame.payload_length for step in steps if isinstance(step, FrameStep))


@dataclass(frozen=True, slots=True)
class _UpdateSteps(Collection[Step]):
    """The steps of an update, each made when it is come to: see ops.Operations."""

    operations: Sequence[Op]
    payload_offset: int

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Step]:
        position, place = 0, self.payload_offset
        for op in self.operations:
            if isinstance(op, Copy):
                yield CopyStep(position, op.length, OWN if op.own else 0, op.offset)
            else:
                yield FrameStep(position, op, 0, place)
                place += op.payload_length
            position += op.length

    def __contains__(self, step: object) -> bool:
        return any(step == ours for ours in self)


@dataclass(frozen=True, slots=True)
class UpdateChoice:
    """The update object to fetch: the base's digest, the object's size in bytes, and the version of its format."""

    base: str
    bytes: int
    version: int = 1


NOTHING = Manifest(())
"""The base of an update that leans on nothing: a first install in one object."""


def choose_update(held: Iterable[str], offer: Offer | None) -> UpdateChoice | None:
    """The smallest update that an offer holds for any held manifest digest, if it beats a first install."""
    if offer is None:
        return None
    choices = [
        UpdateChoice(base, sizes[key], version)
        for version, sizes in ((1, offer.updates), (codecs.NEWEST_VERSION, offer.newer))
        for base in held
        if (key := base_key(base)) in sizes
    ]
    best = min(choices, key=lambda choice: (choice.bytes, choice.version, choice.base), default=None)
    return best if best is not None and best.bytes <= offer.install_bytes else None


def plan_held(digest: str) -> Plan:
    """The target is installed already: nothing to fetch."""
    return Plan(Kind.HELD, 0, 0, (digest,), (), ())


def plan_update(
    target: str, base: str, size: int, payload_offset: int, update: Update | None, version: int = 1
) -> Plan:
    """Carry out an update object of `size` bytes whose payloads begin at `payload_offset`.

    Without its header (None) the plan has the right cost and no steps.
    """
    steps = _UpdateSteps(update.operations, payload_offset) if update else ()
    request = Request(names.update_object(target, base, version), 0, size, whole=True)
    return Plan(Kind.UPDATE, size, 1, (base,), steps, (request,), update.tables if update else b"")


def plan_chunks(
    manifest: Manifest,
    index: Index,
    manifest_bytes: int,
    seeds: Sequence[Manifest],
    damaged: frozenset[int] | None = None,
) -> Plan:
    """Fetch the frames that hold a missing chunk; copy everything else from seeds.

    `manifest_bytes` is the size of the manifests/ object, which this way costs one request more. With `damaged`
    (stream offsets of chunks), only those chunks are made anew, and everything else of the target is in place.
    """
    found = _seed_chunks(seeds)
    missing = (
        {offset for offset, _, digest in manifest.chunks() if digest not in found} if damaged is None else set(damaged)
    )
    places = iter(index.places)
    steps: list[Step] = []
    wanted: list[tuple[int, Frame, int, int]] = []
    chunks = _Cursor(manifest)
    position = 0
    for op in index.operations:
        place = next(places) if isinstance(op, Frame) else None
        inside = chunks.take(op.length)
        if any(offset in missing for offset, _, _ in inside):
            if isinstance(op, Frame):
                assert place is not None
                wanted.append((len(steps), op, place.pack, place.offset))
                steps.append(FrameStep(position, op, 0, 0))
            else:
                steps.append(CopyStep(position, op.length, OWN, op.offset))
        elif damaged is None:
            for offset, size, digest in inside:
                seed, where = found[digest]
                _append_copy(steps, CopyStep(offset, size, seed, where))
        position += op.length
    requests = _coalesce(steps, wanted, index)
    fetched = sum(request.length for request in requests)
    kind = Kind.CHUNKS if any(isinstance(step, CopyStep) and step.seed != OWN for step in steps) else Kind.PACK
    return Plan(
        kind,
        manifest_bytes + fetched,
        1 + len(requests),
        tuple(seed.digest for seed in seeds),
        tuple(steps),
        tuple(requests),
        index.tables,
    )


class _Cursor:
    """Hands out a manifest's chunks run by run."""

    def __init__(self, manifest: Manifest) -> None:
        self._chunks = manifest.chunks()

    def take(self, length: int) -> list[tuple[int, int, str]]:
        taken = []
        while length > 0:
            chunk = next(self._chunks)
            taken.append(chunk)
            length -= chunk[1]
        return taken


def _seed_chunks(seeds: Sequence[Manifest]) -> dict[str, tuple[int, int]]:
    """Digest → (seed number, stream offset) of its first occurrence."""
    found: dict[str, tuple[int, int]] = {}
    for number, seed in enumerate(seeds):
        for offset, _, digest in seed.chunks():
            found.setdefault(digest, (number, offset))
    return found


def _append_copy(steps: list[Step], step: CopyStep) -> None:
    """Append, or lengthen the last copy if this one goes on where that ends."""
    last = steps[-1] if steps else None
    if (
        isinstance(last, CopyStep)
        and last.seed == step.seed
        and last.offset + last.length == step.offset
        and last.target + last.length == step.target
    ):
        steps[-1] = CopyStep(last.target, last.length + step.length, last.seed, last.offset)
    else:
        steps.append(step)


def _coalesce(steps: list[Step], wanted: Sequence[tuple[int, Frame, int, int]], index: Index) -> list[Request]:
    """Give each wanted frame its request; frames of one pack whose gaps are short share one, read in order."""
    requests: list[Request] = []
    latest: dict[int, int] = {}
    for number, frame, pack, offset in wanted:
        digest = index.packs[pack][0]
        current = latest.get(pack)
        if current is not None:
            request = requests[current]
            end = request.offset + request.length
            if end <= offset <= end + MAX_GAP_BYTES:
                length = offset + frame.payload_length - request.offset
                requests[current] = Request(request.path, request.offset, length, False)
                steps[number] = FrameStep(steps[number].target, frame, current, offset - request.offset)
                continue
        latest[pack] = len(requests)
        requests.append(Request(names.pack_object(digest), offset, frame.payload_length, False))
        steps[number] = FrameStep(steps[number].target, frame, latest[pack], 0)
    return [
        Request(r.path, r.offset, r.length, r.offset == 0 and r.path in whole and r.length == whole[r.path])
        for whole in [{names.pack_object(digest): size for digest, size in index.packs}]
        for r in requests
    ]
