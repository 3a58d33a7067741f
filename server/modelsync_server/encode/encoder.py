"""Encodes a target's stream into operations and payloads: on a base (an update) or on nothing (packs). No I/O here.

The result depends on the inputs alone, not on the number of threads: work is cut into units by size first.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import zstd
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plain.section import Views
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.far_context import far_context
from modelsync_server.scratch.spool import Payload, keep
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import Chunk

_PAYLOAD_BYTES = 256 * caps.KIB
_AIM_BYTES = 240 * caps.KIB
"""Payload size that a split aims at: a little under the limit, as parts of one unit differ."""

PACK_BYTES = 64 * caps.KIB
"""Payload size that frames of packs aim at: devices fetch them one by one, and each brings what it holds besides."""

_WINDOW_SLACK_BYTES = 512 * caps.KIB
"""How much of the base is offered around a frame's counterpart when the whole base is too much."""

_CLOSE_SLACK_BYTES, _SHORT_PREFIX_BYTES = 32 * caps.KIB, 256 * caps.KIB
"""Less of the base around, and of the target before a frame: what is offered first unless effort is no object. Sixteen
times as much takes ten times as long to index, and spares a first install of a Python environment 1 %."""

_EDITED, _FAR = 0.25, 0.97
"""A sample that its counterpart makes so much smaller was edited, and nothing else will help it; a larger context is
tried if quick attempts say that it makes a sample so much smaller than the short one."""

_REACH = 256
"""Contexts of more than so many bytes for each of the sample's aren't tried: what they could spare is little."""

_WHOLE_BYTES = 8 * caps.MIB
"""Base and target together up to here: the whole base is offered to each frame."""

SMALL_BYTES = caps.MIB
"""Smaller targets are looked at whole, whatever the effort: it takes no time."""

_WORTH = 0.997
"""A context must make a sample this much smaller to be used: each costs the device memory and time."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Operations that tile the target, and the payloads of its frames in order."""

    operations: tuple[Op, ...]
    payloads: tuple[Payload, ...]
    tables: bytes = b""
    views: Views | None = None
    """The plain views that the operations run between; None: between the streams."""

    @property
    def cost(self) -> int:
        """Estimate of the bytes on the wire: payloads, tables, and 8 bytes an operation."""
        return len(self.tables) + sum(map(len, self.payloads)) + 8 * len(self.operations)


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest and the bytes of its stream (borrowed)."""

    manifest: Manifest
    stream: memoryview


def encode_update(
    base: Source, target: Source, pool: Executor, finder: BaseFinder | None = None, effort: Effort = Effort.MAX
) -> Encoded:
    """Encode `target` for a device that holds `base`: chunks that `finder` finds are copied, the rest leans on it."""
    return _encode_runs(base, target, finder or BaseFinder(base.manifest, target.manifest), pool, effort)


def encode_alone(
    target: Source, runs: Sequence[Sequence[Chunk]], pool: Executor, effort: Effort = Effort.MAX
) -> list[tuple[Frame, Payload]]:
    """Encode runs of consecutive chunks on nothing but earlier bytes of the target: frames of a pack, in order."""
    context = Context(target, None, None, aim=PACK_BYTES, most=2 * PACK_BYTES, effort=effort)
    return encode_units([unit for run in runs for unit in cut_units(run)], context, pool)


def encode_again(
    target: Source, groups: Sequence[tuple[list[Chunk], int]], pool: Executor, effort: Effort
) -> list[list[tuple[Frame, Payload]]]:
    """Frames of a pack for chunks that were one frame before, most of them: (chunks, bytes that it leaned on) each.

    How it was cut and what it leaned on was chosen then, and a few other bytes don't change what is best.
    """
    context = Context(target, None, None, aim=PACK_BYTES, most=2 * PACK_BYTES, effort=effort)
    return list(pool.map(lambda group: context.again(*group), groups))


def _encode_runs(base: Source, target: Source, finder: BaseFinder, pool: Executor, effort: Effort) -> Encoded:
    context = Context(target, base, finder, effort=effort)
    plan = runs(target.manifest, finder)
    units = [cut_units(chunks) if changed else [] for changed, chunks in plan]
    frames = iter(encode_units([unit for group in units for unit in group], context, pool))
    operations: list[Op] = []
    payloads: list[Payload] = []
    for changed, chunks in plan:
        if changed:
            remaining = sum(size for _, size, _ in chunks)
            while remaining:
                frame, payload = next(frames)
                operations.append(frame)
                payloads.append(payload)
                remaining -= frame.length
        else:
            append_copies(operations, chunks, finder)
    return Encoded(tuple(operations), tuple(payloads))


def runs(target: Manifest, finder: BaseFinder) -> list[tuple[bool, list[Chunk]]]:
    """(changed, chunks) of the target in turn; short unchanged runs between changed ones are counted to these."""
    found: list[tuple[bool, list[Chunk]]] = []
    for chunk in target.chunks():
        changed = finder.find(chunk) is None
        if found and found[-1][0] == changed:
            found[-1][1].append(chunk)
        else:
            found.append((changed, [chunk]))
    return _join_short(found, finder)


def _join_short(plan: list[tuple[bool, list[Chunk]]], finder: BaseFinder) -> list[tuple[bool, list[Chunk]]]:
    """Turn short unchanged runs between changed ones into changed ones: a frame more would cost more."""
    result: list[tuple[bool, list[Chunk]]] = []
    for number, (changed, chunks) in enumerate(plan):
        inner = 0 < number < len(plan) - 1
        changed = changed or (inner and not finder.worth_a_cut(chunks))
        if result and result[-1][0] == changed:
            result[-1][1].extend(chunks)
        else:
            result.append((changed, list(chunks)))
    return result


def append_copies(operations: list[Op], chunks: Sequence[Chunk], finder: BaseFinder) -> None:
    for chunk in chunks:
        found = finder.find(chunk)
        assert found is not None
        last = operations[-1] if operations else None
        if isinstance(last, Copy) and last.own == found.own and last.offset + last.length == found.offset:
            operations[-1] = Copy(last.length + chunk[1], last.offset, last.own)
        else:
            operations.append(Copy(chunk[1], found.offset, found.own))


def cut_units(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Cut a run into pieces of at most a frame's decoded size."""
    units: list[list[Chunk]] = []
    size = caps.MAX_FRAME_BYTES
    for chunk in chunks:
        if size + chunk[1] > caps.MAX_FRAME_BYTES:
            units.append([])
            size = 0
        units[-1].append(chunk)
        size += chunk[1]
    return units


def encode_units(units: Sequence[list[Chunk]], context: Context, pool: Executor) -> list[tuple[Frame, Payload]]:
    jobs = [job for group in pool.map(context.split, units) for job in group]
    encoded = pool.map(context.encode, jobs)
    return [item for group in encoded for item in group]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which context a unit's frames get: bytes of base around them, bytes of earlier target."""

    whole_base: bool
    around: int
    """Bytes of base around a frame's counterpart; 0: not even that."""
    prefix: int
    tuning: int | None = None
    """Of zstd, chosen by a sample; None: all are tried."""
    far: bool = False
    """Whether a frame may lean on more of the earlier target, where it repeats that."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Chunks to encode in a chosen context; `done` is the result where choosing already gave it."""

    chunks: list[Chunk]
    choice: _Choice
    done: tuple[Frame, Payload] | None = None


class Context:
    """Chooses what frames lean on, and encodes them."""

    def __init__(
        self,
        target: Source,
        base: Source | None,
        finder: BaseFinder | None,
        *,
        aim: int = _AIM_BYTES,
        most: int = _PAYLOAD_BYTES,
        effort: Effort = Effort.MAX,
    ) -> None:
        """Payloads come out near `aim` bytes where there is more, and at most `most` unless one chunk has more."""
        self._aim = aim
        self._sampled = effort is not Effort.MAX and target.manifest.size > SMALL_BYTES
        self._most = most
        self._target = target
        self._base = base
        self._finder = finder
        self._tunings: dict[int, int] = {}
        self._whole = base is not None and base.manifest.size + target.manifest.size <= _WHOLE_BYTES

    def split(self, unit: list[Chunk]) -> list[_Job]:
        """Choose the context on a sample of the unit, and cut the unit so that payloads come out near the limit."""
        sample = _around_middle(unit)
        choice = self._choose(sample)
        best = self._encode(sample, choice)
        estimate = len(best[1]) * _size(unit) // _size(sample)
        hopeful = self._most if self._sampled else 4 * self._most
        if len(sample) < len(unit) and estimate <= hopeful:
            # The sample may mislead; the whole may still fit into one frame.
            best = self._encode(unit, choice)
            sample, estimate = unit, len(best[1])
        if estimate <= self._most and sample is unit:
            return [_Job(unit, choice, best)]
        return [_Job(part, choice) for part in _cut(unit, max(1, -(-estimate // self._aim)))]

    def _choose(self, sample: list[Chunk]) -> _Choice:
        """The context that an attempt on the sample favours, by more than a context costs the device."""
        start, length = sample[0][0], _size(sample)
        data = bytes(self._target.stream[start : start + length])
        if not self._sampled:
            return self._smallest(data, start, self._choices(start))
        choices = self._promising(data, start)
        choice = choices[0] if len(choices) == 1 else self._smallest(data, start, choices)
        own = not choice.whole_base and not choice.around and choice.prefix == _SHORT_PREFIX_BYTES
        far = own and far_context(self._target.stream, start, length, choice.prefix) is not None
        return replace(choice, tuning=zstd.tuning_for(data), far=far)

    def _smallest(self, data: bytes, start: int, choices: Sequence[_Choice]) -> _Choice:
        best, least = choices[0], 0.0
        for choice in choices:
            size = zstd.estimate(data, b"".join(self._lean(start, len(data), choice)))
            if choice is choices[0] or size < least * _WORTH - 16:
                best, least = choice, size
        return best

    def again(self, chunks: list[Chunk], prefix: int) -> list[tuple[Frame, Payload]]:
        """Encode chunks as one frame, or more if there is too much, on so many bytes before them."""
        start = chunks[0][0]
        begin = start - start % caps.MAX_FRAME_BYTES
        if begin not in self._tunings:
            self._tunings[begin] = zstd.tuning_for(self._target.stream[begin : begin + caps.MAX_FRAME_BYTES])
        return self.encode(_Job(chunks, _Choice(False, 0, min(prefix, start), self._tunings[begin])))

    def encode(self, job: _Job) -> list[tuple[Frame, Payload]]:
        """Encode a job's chunks as one frame, or as more if the payload comes out too large."""
        frame, payload = job.done or self._encode(job.chunks, job.choice)
        if len(payload) <= self._most or len(job.chunks) == 1:
            return [(frame, payload)]
        parts = _cut(job.chunks, -(-len(payload) // self._aim))
        return [item for part in parts for item in self.encode(_Job(part, job.choice))]

    def _promising(self, data: bytes, start: int) -> list[_Choice]:
        """Contexts that quick attempts at a sample leave to be tried, the cheapest for the device first."""
        short = min(start, _SHORT_PREFIX_BYTES)
        own = self._larger_if_far(
            data, start, _Choice(False, 0, short), _Choice(False, 0, min(start, caps.MAX_PREFIX_BYTES))
        )
        if self._base is None or not self._base.manifest.size:
            alone = _Choice(False, 0, 0)
            return [own if self._quick(data, start, own) < _WORTH * quick_size(data) - 16 else alone]
        close = _Choice(False, _CLOSE_SLACK_BYTES, 0)
        near = self._larger_if_far(data, start, close, _Choice(False, _WINDOW_SLACK_BYTES, 0))
        if self._quick(data, start, near) < _EDITED * quick_size(data):
            return [near]
        choices = [_Choice(False, 0, 0), *([own] if short else []), near]
        if self._whole:
            whole = self._larger_if_far(data, start, near, _Choice(True, 0, 0))
            choices += [choice for choice in (whole, _Choice(True, 0, own.prefix)) if whole.whole_base]
        return choices

    def _larger_if_far(self, data: bytes, start: int, small: _Choice, large: _Choice) -> _Choice:
        """The larger context if a quick attempt finds much there, else the smaller one."""
        size = sum(map(len, self._lean(start, len(data), large)))
        if sum(map(len, self._lean(start, len(data), small))) >= size or size > _REACH * len(data):
            return small
        return large if self._quick(data, start, large) < _FAR * self._quick(data, start, small) else small

    def _quick(self, data: bytes, start: int, choice: _Choice) -> int:
        """Bytes that a fast attempt at the target's `data` at `start` gives in a context."""
        return quick_size(data, b"".join(self._lean(start, len(data), choice)))

    def _choices(self, offset: int) -> list[_Choice]:
        """Contexts to try, the cheapest for the device first."""
        earlier = min(offset, caps.MAX_PREFIX_BYTES)
        choices = [_Choice(False, 0, 0)]
        if earlier:
            choices.append(_Choice(False, 0, earlier))
        if self._base is not None and self._base.manifest.size:
            choices.append(_Choice(False, _WINDOW_SLACK_BYTES, 0))
            if self._whole:
                choices.append(_Choice(True, 0, 0))
                if earlier:
                    choices.append(_Choice(True, 0, earlier))
        return choices

    def _encode(self, unit: list[Chunk], choice: _Choice) -> tuple[Frame, Payload]:
        start, length = unit[0][0], _size(unit)
        data = bytes(self._target.stream[start : start + length])
        base, prefix = self._lean(start, length, choice)
        if choice.far:
            prefix = far_context(self._target.stream, start, length, len(prefix)) or prefix
        encoding = codecs.ZSTD_PATCH if base or prefix else codecs.ZSTD
        payload = zstd.compress(data, base + prefix, choice.tuning)
        base_offset, base_length = self._base_range(start, length, choice)
        return Frame(length, encoding, len(payload), base_offset, base_length, len(prefix)), keep(payload)

    def _lean(self, start: int, length: int, choice: _Choice) -> tuple[bytes, bytes]:
        """The base range and the prefix that a frame gets in a context."""
        base_offset, base_length = self._base_range(start, length, choice)
        prefix = min(choice.prefix, start, caps.MAX_LEAN_BYTES - length - base_length)
        base = b"" if self._base is None else bytes(self._base.stream[base_offset : base_offset + base_length])
        return base, bytes(self._target.stream[start - prefix : start])

    def _base_range(self, start: int, length: int, choice: _Choice) -> tuple[int, int]:
        if self._base is None or self._finder is None or not (choice.whole_base or choice.around):
            return 0, 0
        if choice.whole_base:
            return 0, self._base.manifest.size
        size = self._base.manifest.size
        begin = self._finder.counterpart(start)
        end = max(begin, self._finder.counterpart(start + length - 1))
        if end - begin > caps.MAX_FRAME_BYTES + _WINDOW_SLACK_BYTES:
            end = begin + length
        begin = max(0, begin - choice.around)
        end = min(size, end + choice.around, begin + caps.MAX_BASE_BYTES, begin + caps.MAX_LEAN_BYTES - length)
        return (begin, end - begin) if end > begin else (0, 0)


def _size(chunks: Sequence[Chunk]) -> int:
    return sum(size for _, size, _ in chunks)


def _around_middle(unit: list[Chunk]) -> list[Chunk]:
    """About 256 KiB of chunks from the middle of a unit; short units whole."""
    if _size(unit) <= 2 * _PAYLOAD_BYTES:
        return unit
    first = last = len(unit) // 2
    size = unit[first][1]
    while last + 1 < len(unit) and size + unit[last + 1][1] <= _PAYLOAD_BYTES:
        last += 1
        size += unit[last][1]
    return unit[first : last + 1]


def _cut(unit: list[Chunk], count: int) -> list[list[Chunk]]:
    """Cut a unit at chunk edges into about `count` parts of similar size, each with at least one chunk."""
    goal = _size(unit) / count
    parts: list[list[Chunk]] = []
    done = 0.0
    for chunk in unit:
        if not parts or done + chunk[1] / 2 >= goal * len(parts):
            parts.append([])
        parts[-1].append(chunk)
        done += chunk[1]
    return parts
