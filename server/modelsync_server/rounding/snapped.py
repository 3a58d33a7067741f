"""The lossy option, an author's alone: rounds what an update moved, and says how far that is from what was meant.

Each tensor of floats that moved keeps fewer bits of its mantissas: as many as its update's size asks for. What is left
of the update is then a small number of steps for each weight, which encoding 4 carries without raw bits (FORMAT.md
§tensor frames, *drop*). All other bytes of the file stay as they are. No I/O here; nothing calls this by itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral, Unsigned
from modelsync_protocol.manifest import Manifest
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Source
from modelsync_server.tensors import pairs
from modelsync_server.tensors.pairs import Tensor

STEPS = tuple(2.0**-power for power in range(8, -3, -1))
"""Rounding errors that a curve tries, each as a share of a tensor's update (both root mean squares)."""

_KINDS = frozenset({numerals.F32, numerals.F16, numerals.BF16})
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapped:
    """A target's stream with the update rounded, to `step` of each tensor's update at the most.

    `drift` is what the rounding changed of the update: the root mean square of (snapped - new) over that of
    (new - old), over all weights of the tensors that moved. `tensors` of them were rounded.
    """

    step: float
    stream: bytes
    drift: float
    tensors: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A tensor that moved: sums of squares of its update, and of its weights' units in the last place."""

    tensor: Tensor
    update: float
    units: float


def moved_tensors(base: Source, target: Source) -> list[Moved]:
    """The tensors of floats that both have and that are finite and not the same."""
    new = pairs.tensors_of(target.manifest, target.stream, guess=False)
    old = pairs.tensors_of(base.manifest, base.stream, guess=False)
    paired = pairs.pair(old, base.stream, new, target.stream)
    found = []
    for tensor in new:
        before = paired.get(tensor.offset)
        if before is None or tensor.numeral not in _KINDS or before.numeral != tensor.numeral:
            continue
        if before.count != tensor.count:
            continue
        update = units = 0.0
        for begin, after in _blocks(tensor, target.stream):
            was = _bits(before, base.stream, begin, len(after))
            one, two = numerals.widened(tensor.numeral, was), numerals.widened(tensor.numeral, after)
            with np.errstate(invalid="ignore", over="ignore"):
                gap = two - one
                update += float(gap @ gap)
            unit = np.ldexp(1.0, numerals.exponents(tensor.numeral, after).astype(np.int64) - _bias(tensor.numeral))
            units += float(unit @ unit)
        if 0 < update < math.inf:
            found.append(Moved(tensor, update, units))
    return found


def snap(target: Source, moved: list[Moved], step: float) -> Snapped:
    """Round the tensors that moved so that each one's error is about `step` of its update, at the most."""
    out = bytearray(target.stream)
    error = update = 0.0
    rounded = 0
    for item in moved:
        tensor = item.tensor
        update += item.update
        # Rounding to steps of d errs by d / √12 in the mean.
        room = step * math.sqrt(12 * item.update / item.units)
        drop = min(tensor.numeral.mantissa, max(0, math.floor(math.log2(room))))
        if not drop:
            continue
        rounded += 1
        for begin, bits in _blocks(tensor, target.stream):
            coarse = shorter(tensor.numeral, bits, drop)
            gap = numerals.widened(tensor.numeral, coarse) - numerals.widened(tensor.numeral, bits)
            error += float(gap @ gap)
            place = tensor.offset + begin * tensor.numeral.width
            out[place : place + len(bits) * tensor.numeral.width] = coarse.tobytes()
    return Snapped(step, bytes(out), math.sqrt(error / update) if update else 0.0, rounded)


def shorter(kind: Numeral, bits: Unsigned, drop: int) -> Unsigned:
    """Floats rounded so that their lowest `drop` bits are zero; those that would turn infinite are cut off."""
    dtype = kind.unsigned_dtype
    one, sign = 1 << drop, dtype.type(1 << (8 * kind.width - 1))
    magnitude = bits & ~sign
    highest = dtype.type((kind.exponent_mask << kind.mantissa) - one)
    up = np.minimum(magnitude, highest) + dtype.type(one >> 1)
    up &= dtype.type((1 << 8 * kind.width) - one)
    finite = magnitude < dtype.type(kind.exponent_mask << kind.mantissa)
    result: NDArray[np.generic] = np.where(finite, up | (bits & sign), bits)
    return result


def update_bytes(base: Source, target: Source, snapped: Snapped, pool: Executor) -> int:
    """About what an update to the snapped target would cost: what its encoder makes of it, before the header."""
    return smallest_update(base, _resealed(target, snapped.stream), pool).cost


def _resealed(target: Source, stream: bytes) -> Source:
    """A source whose bytes changed in place, cut where the target is."""
    view = memoryview(stream)
    files = []
    for file, start in zip(target.manifest.files, target.manifest.file_offsets, strict=False):
        digests, position = [], start
        for size in file.sizes:
            digests.append(hashlib.sha256(view[position : position + size]).hexdigest())
            position += size
        files.append(replace(file, digests=tuple(digests)))
    return Source(Manifest(tuple(files)), view)


def _blocks(tensor: Tensor, stream: memoryview) -> Iterator[tuple[int, Unsigned]]:
    for begin in range(0, tensor.count, _BLOCK):
        yield begin, _bits(tensor, stream, begin, min(_BLOCK, tensor.count - begin))


def _bits(tensor: Tensor, stream: memoryview, begin: int, count: int) -> Unsigned:
    kind = tensor.numeral
    return np.frombuffer(stream, kind.unsigned_dtype, count, tensor.offset + begin * kind.width)


def _bias(kind: Numeral) -> int:
    """What to take off an exponent's field to get the exponent of a unit in the last place."""
    return kind.exponent_mask // 2 + kind.mantissa
