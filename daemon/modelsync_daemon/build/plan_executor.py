"""Carries out a plan's steps: fetch → decode → write, in the order of the stream, with the journal behind.

Frames are decoded as they arrive and written in place. A frame that does not decode leaves a gap, which the
verification after the last step finds; nothing here decides what is true.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from modelsync_daemon.build import heap
from modelsync_daemon.build.seeds import StreamReader
from modelsync_daemon.build.target_tree import Assembly
from modelsync_daemon.transfer.download import ObjectReader, ObjectSource
from modelsync_protocol import caps, codecs
from modelsync_protocol.errors import FormatError
from modelsync_protocol.ops import Frame
from modelsync_protocol.plan import OWN, CopyStep, FrameStep, Plan, Step

_JOURNAL_BYTES = 256 * caps.KIB
"""Payload that may be fetched twice after a kill: the journal advances before more than this is at stake."""

_COPY_BYTES = caps.MIB
_READ_BYTES = 64 * caps.KIB
_OPEN_BODIES = 3

_log = logging.getLogger(__name__)

Advance = Callable[[int, int], None]
"""`advance(steps, payload bytes)`: so much is durably on the disk."""

Check = Callable[[int, bytes | bytearray], Awaitable[bool]]
"""Whether decoded bytes for a place of the target may be right: False only if its signed digests say otherwise."""


class Readable(Protocol):
    """Bytes by range of a stream, or of a stream's view."""

    def read(self, offset: int, length: int) -> bytes:
        """Return a range; bytes that the disk lacks come as zeros."""


class Destination(Protocol):
    """What the steps write: a target's tree, or its plain view."""

    @property
    def reader(self) -> Readable:
        """What is written so far."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes at `offset`; durable after `sync`."""

    def sync(self) -> None:
        """Make all writes so far durable."""


class Links(Protocol):
    """What needs no copy."""

    def unlinked(self, step: CopyStep) -> list[tuple[int, int]]:
        """Parts of a copy step, relative to its start, that still need copying."""


class Executor:
    """Runs `plan` into `assembly`; `seeds` are the plan's, by number. `journal` None: nothing is recorded."""

    def __init__(
        self,
        plan: Plan,
        assembly: Destination,
        seeds: Sequence[Readable],
        origin: ObjectSource,
        *,
        journal: Advance | None,
        progress: Callable[[int], None],
        check: Check | None = None,
    ) -> None:
        """`check` is asked about what came from a neighbour."""
        self._plan = plan
        self._assembly = assembly
        self._seeds = seeds
        self._origin = origin
        self._journal = journal
        self._progress, self._check = progress, check
        self._bodies: OrderedDict[int, ObjectReader] = OrderedDict()
        self._room = bytearray()

    async def run(self, first_step: int = 0, body: ObjectReader | None = None, linked: Links | None = None) -> None:
        """Do the steps from `first_step` on. `body` is request 0, already open; `linked` says what needs no copy."""
        if body is not None:
            self._bodies[0] = body
        fetched = self._plan.payload_bytes(end=first_step)
        pending = 0
        heap.give_back()
        self._progress(fetched)
        try:
            for number, step in islice(enumerate(self._plan.steps), first_step, None):
                if isinstance(step, CopyStep):
                    self._copy(step, linked)
                    continue
                if pending and pending + step.frame.payload_length > _JOURNAL_BYTES:
                    self._record(number, fetched)
                    pending = 0
                payload = await self._payload(step)
                await self._place(step, payload)
                fetched += len(payload)
                pending += len(payload)
                self._progress(fetched)
            self._record(len(self._plan.steps), fetched)
        finally:
            for opened in self._bodies.values():
                opened.close()
            self._bodies.clear()

    def _record(self, steps: int, fetched: int) -> None:
        if self._journal is not None:
            self._assembly.sync()
            self._journal(steps, fetched)

    def _copy(self, step: CopyStep, linked: Links | None) -> None:
        source = self._assembly.reader if step.seed == OWN else self._seeds[step.seed]
        ranges = [(0, step.length)] if linked is None else linked.unlinked(step)
        for begin, end in ranges:
            for at in range(begin, end, _COPY_BYTES):
                count = min(_COPY_BYTES, end - at)
                self._assembly.write(step.target + at, source.read(step.offset + at, count))

    async def _payload(self, step: FrameStep) -> bytes:
        request = self._plan.requests[step.request]
        body = self._bodies.get(step.request)
        if body is None:
            if len(self._bodies) >= _OPEN_BODIES:
                self._bodies.popitem(last=False)[1].close()
            end = request.offset + request.length
            body = self._origin.open(request.path, request.offset + step.place, end, whole=request.whole)
            self._bodies[step.request] = body
        self._bodies.move_to_end(step.request)
        await body.skip_to(request.offset + step.place)
        return await body.read(step.frame.payload_length)

    async def _place(self, step: FrameStep, payload: bytes) -> None:
        """Decode a payload into its place. What a neighbour sent wrong is fetched again, from others."""
        body, begin = self._bodies[step.request], self._plan.requests[step.request].offset + step.place
        while True:
            data = self._decode(step, payload)
            sound = data is not None
            if data is not None and body.hearsay and self._check is not None:
                sound = await self._check(step.target, data)
            again = None if sound else await body.again(begin, len(payload))
            if again is None:
                break
            payload = again
        body.accept()
        if data is not None:
            self._assembly.write(step.target, data)

    def _decode(self, step: FrameStep, payload: bytes) -> bytes | bytearray | None:
        """The frame's bytes; None if it is damaged."""
        frame = step.frame
        base = self._base(frame)
        prefix = self._assembly.reader.read(step.target - frame.prefix, frame.prefix) if frame.prefix else b""
        try:
            return codecs.decode(frame.encoding, payload, frame.length, base, prefix, self._plan.tables)
        except Exception as error:  # a decoder's fault must not end the worker: it is damage like any other
            if not isinstance(error, FormatError):
                _log.exception("encoding %d did not refuse what it can't decode", frame.encoding)
            _log.warning("bytes %d to %d came damaged: %s", step.target, step.target + frame.length, error)
            return None

    def _base(self, frame: Frame) -> bytes | bytearray:
        """What a frame leans on; as memory to build it in, if it may lie over that. Read anew for each attempt.

        That memory is the same for frame after frame: fresh pages cost as much as decoding into them.
        """
        if not frame.base_length:
            return b""
        read = self._seeds[0].read
        if frame.encoding not in codecs.BUILDS_IN_PLACE or frame.base_length != frame.length:
            return read(frame.base_offset, frame.base_length)
        try:
            del self._room[frame.base_length :]
            self._room.extend(bytes(frame.base_length - len(self._room)))
        except BufferError:  # somebody still looks at the last frame: let him
            self._room = bytearray(frame.base_length)
        base = self._room
        for at in range(0, len(base), _READ_BYTES):
            count = min(_READ_BYTES, len(base) - at)
            base[at : at + count] = read(frame.base_offset + at, count)
        return base


class Linked:
    """Files of the target that are hard links to installed ones, so that copies of their ranges are not needed."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._files: set[int] = set()

    def link(self, steps: Iterable[Step], seeds: Sequence[StreamReader]) -> None:
        """Link each file that a copy step takes whole from one seed file of the same mode."""
        places: dict[int, dict[int, int]] = {}
        for step in steps:
            if not isinstance(step, CopyStep) or step.seed == OWN:
                continue
            if (starts := places.get(step.seed)) is None:
                offsets = seeds[step.seed].manifest.file_offsets[:-1]
                starts = places[step.seed] = {offset: number for number, offset in enumerate(offsets)}
            for number, file, inside, count in self._assembly.reader.pieces(step.target, step.length):
                if inside or count != file.size:
                    continue
                place = step.offset + self._assembly.manifest.file_offsets[number] - step.target
                self._link_one(seeds[step.seed], starts.get(place), number)

    @property
    def unlinked_bytes(self) -> int:
        """Bytes of the files that need room of their own."""
        return sum(f.size for number, f in enumerate(self._assembly.manifest.files) if number not in self._files)

    def unlinked(self, step: CopyStep) -> list[tuple[int, int]]:
        """Parts of a copy step, relative to its start, that still need copying."""
        offsets = self._assembly.manifest.file_offsets
        parts: list[tuple[int, int]] = []
        for number, _, inside, count in self._assembly.reader.pieces(step.target, step.length):
            begin = offsets[number] + inside - step.target
            if number in self._files:
                continue
            if parts and parts[-1][1] == begin:
                parts[-1] = (parts[-1][0], begin + count)
            else:
                parts.append((begin, begin + count))
        return parts

    def _link_one(self, seed: StreamReader, found: int | None, number: int) -> None:
        if found is None:
            return
        theirs, ours = seed.manifest.files[found], self._assembly.manifest.files[number]
        source: Path = seed.root / theirs.path
        try:
            info = source.lstat()
        except OSError:
            return
        sound = (
            info.st_size == theirs.size and info.st_mode & 0o777 == theirs.mode
        )  # bytes behind the end have no chunk
        if sound and theirs.size == ours.size and theirs.mode == ours.mode and self._assembly.link(number, source):
            self._files.add(number)
