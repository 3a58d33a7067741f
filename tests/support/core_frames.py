"""Frames of every kind that the compiled core decodes, by seed, and what it and NumPy make of them.

Payloads are written here by hand, not by the publisher: a publisher writes no symbol that costs more than it must,
no factor
beyond its data and no level that clips, but a hostile one does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import codecs
from modelsync_protocol.codecs import models, numerals, rans, segments, tables
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.codecs.segments import Coded, Factors, Head, Mode, Predictor, Same
from modelsync_protocol.codecs.symbols import DELTA, VALUE_ESCAPE, VALUE_TOP_BITS, VALUE_ZERO
from modelsync_protocol.errors import FormatError
from modelsync_protocol.native import core as native
from modelsync_protocol.native import writer as native_writer
from modelsync_server.tensors import rans_writer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Made:
    """A frame as `codecs.decode` takes it."""

    payload: bytes
    length: int
    base: bytes
    shared: bytes


@contextmanager
def reference() -> Iterator[None]:
    """Inside, everything is computed in NumPy."""
    holders = [
        (module, name, real)
        for name, real in (("core", native.core), ("writer", native_writer.writer))
        for module in list(sys.modules.values())
        if getattr(module, name, None) is real
    ]
    for module, name, _ in holders:
        setattr(module, name, lambda: None)
    try:
        yield
    finally:
        for module, name, real in holders:
            setattr(module, name, real)


def outcome(made: Made, payload: bytes) -> bytes | str:
    """What a payload decodes to, or that it is refused."""
    try:
        return bytes(codecs.decode(codecs.RANS_DELTA, payload, made.length, made.base, b"", made.shared))
    except FormatError:
        return "refused"


def both(made: Made, payload: bytes) -> tuple[bytes | str, bytes | str]:
    """By the core and in NumPy."""
    with reference():
        slow = outcome(made, payload)
    return outcome(made, payload), slow


def frame(seed: int, most: int = 400) -> Made:
    """A valid frame of up to four segments of at most `most` elements each."""
    rng = np.random.default_rng(seed)
    groups = [_group(rng) for _ in range(int(rng.integers(1, 4)))]
    shared = tables.write(groups)
    base = _base(rng, int(rng.integers(8 * most, 12 * most)))
    parts: list[Coded | Same] = [_segment(rng, len(groups), most, len(base)) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.3:
        parts.append(Same(int(rng.integers(1, 50)), int(rng.integers(0, len(base) - 50))))
    rows = np.concatenate([[tables.frequencies(row) for row in group.codes] for group in groups])
    starts = np.cumsum(rows, axis=1) - rows
    chosen = tables.read(shared).contexts
    frequencies, firsts, widths = [], [], []
    for part in parts:
        if not isinstance(part, Coded):
            continue
        old = None
        if part.base_offset is not None:
            old = np.frombuffer(base, part.numeral.unsigned_dtype, part.count, part.base_offset)
        table = chosen[part.group][models.modelled(part, old, 0, part.count)[1]]
        picked = _symbols(rng, rows, table)
        frequencies.append(rows[table, picked])
        firsts.append(starts[table, picked])
        widths.append(_raw_bits(part)[picked])
    total = sum(len(part) for part in frequencies)
    lane_bits = max(int(rng.integers(0, 9)), (total // rans.MAX_STEPS).bit_length())
    assert total <= rans.MAX_STEPS << lane_bits
    bits = int(sum(int(part.sum()) for part in widths))
    reserve = 2 << lane_bits
    raw = _noise(rng, -(-bits // 8))
    seeds = np.frombuffer(raw[:reserve].ljust(reserve, b"\0"), "<u2")
    with reference():
        states, words = rans_writer.encode_symbols(
            np.concatenate(frequencies).astype(np.uint32), np.concatenate(firsts).astype(np.uint32), seeds
        )
    head = segments.write(Head(tuple(parts), lane_bits, len(words) // 2))
    return Made(head + states + words + raw[reserve:], sum(part.length for part in parts), base, shared)


def elements(seed: int, most: int = 400) -> tuple[Coded, NDArray[Any], NDArray[Any] | None]:
    """A segment of at most `most` elements, their bits, and their counterparts'."""
    rng = np.random.default_rng(seed)
    base = _base(rng, 12 * most)
    part = _segment(rng, 1, most, len(base))
    dtype, begin = part.numeral.unsigned_dtype, int(rng.integers(len(base) - part.length + 1))
    new = np.frombuffer(base, dtype, part.count, begin)
    at = part.base_offset
    return part, new, None if at is None else np.frombuffer(base, dtype, part.count, at)


def damaged(made: Made, seed: int) -> bytes:
    """The payload cut short, longer, or with some bytes changed, wherever that is."""
    rng = np.random.default_rng(seed)
    data = bytearray(made.payload)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(data[: int(rng.integers(len(data)))])
    if kind == 1:
        return bytes(data) + _noise(rng, int(rng.integers(1, 9)))
    for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(len(data)))] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
    return bytes(data)


def _group(rng: np.random.Generator) -> tables.Group:
    cuts = int(rng.integers(1, 6))
    starts = (0, *sorted(int(n) for n in rng.choice(np.arange(1, tables.MAX_CONTEXTS), cuts - 1, replace=False)))
    rows = []
    for _ in starts:
        counts = rng.geometric(0.02, 256).astype(np.int64)
        counts[rng.random(256) < rng.choice([0.0, 0.5, 0.97])] = 0
        if rng.random() < 0.2:
            counts[int(rng.integers(256))] = 1 << 20
        counts[int(rng.integers(256))] += 1
        rows.append(tables.quantised(counts))
    return tables.Group(starts, np.stack(rows))


def _segment(rng: np.random.Generator, groups: int, most: int, base: int) -> Coded:
    kind = numerals.NUMERALS[int(rng.integers(len(numerals.NUMERALS)))]
    values = rng.random() < 0.3 and (kind.mantissa > 0 or kind.width == 1)
    count = int(rng.integers(1, most + 1))
    columns = int(rng.choice([1, 2, int(rng.integers(1, count + 1)), count, count + 7, 1 << 33]))
    column = int(rng.integers(min(columns, 1 << 40)))
    offset = None
    if not values and rng.random() < 0.8:
        offset = int(rng.integers(base - count * kind.width + 1))
    level = int(rng.integers(-300, 1100) if rng.random() < 0.9 else rng.choice([-16384, 16384]))
    part = Coded(
        Mode.VALUE if values else Mode.DELTA, kind, int(rng.integers(groups)), count, offset, columns, column, level
    )
    if rng.random() < 0.4:
        part = replace(part, rows=rng.integers(0, rng.choice([2, 256]), part.row_count).astype(np.uint8))
    if rng.random() < 0.4:
        part = replace(part, offsets=rng.integers(0, 256, min(count, columns)).astype(np.uint8))
    if offset is not None and (kind.mantissa or kind.width == 1) and rng.random() < 0.7:
        part = replace(part, factors=_factors(rng, part))
    limit = kind.mantissa - VALUE_TOP_BITS if values and kind.mantissa else 8 * kind.width - 1
    if limit > 0 and not (values and not kind.mantissa) and rng.random() < 0.3:
        part = replace(part, drop=int(rng.integers(1, limit + 1)))
    return part


def _factors(rng: np.random.Generator, part: Coded) -> Factors:
    predictor = Predictor(int(rng.integers(1, 4)))
    size = segments.factor_count(predictor, part.count, part.columns, part.column)
    if part.numeral.mantissa:
        reach = int(rng.choice([1 << 10, 1 << 20, (1 << 31) - 1]))
        return Factors(predictor, int(rng.integers(0, 41)), rng.integers(-reach, reach + 1, size).astype(np.int32))
    slope, shift = numerals.MAX_SLOPE >> 4, numerals.MAX_SHIFT >> 4
    return Factors(
        predictor,
        12,
        rng.integers(-slope, slope + 1, size).astype(np.int32),
        12,
        rng.integers(-shift, shift + 1, size).astype(np.int32),
    )


def _base(rng: np.random.Generator, size: int) -> bytes:
    """Noise, and weights of every type among which are zeros of both signs, subnormals, infinities and NaN."""
    data = bytearray(_noise(rng, size))
    special = [0.0, -0.0, 5e-324, 1e-310, -2e-45, 3e-41, 6e-8, -5.9e-8, 65504.0, 65519.0, 65520.0, 3.4e38, float("inf")]
    for place in range(0, size - 64, 64):
        value = np.array([float(rng.choice([*special, -float("inf"), float("nan"), float(rng.normal())]))])
        with np.errstate(all="ignore"):
            wide = value.astype(rng.choice(["<f2", "<f4", "<f8"]))
        data[place : place + wide.nbytes] = wide.tobytes()
    return bytes(data)


def _symbols(rng: np.random.Generator, rows: NDArray[np.int32], table: NDArray[np.uint8]) -> NDArray[np.intp]:
    """For each element one of its table's symbols, the rare as likely as the frequent, so that lanes are refilled."""
    picked = np.zeros(len(table), np.intp)
    for number in np.unique(table):
        (where,) = (table == number).nonzero()
        present = np.flatnonzero(rows[number])
        chance = None if rng.random() < 0.5 else rows[number][present] / rows[number].sum()
        picked[where] = rng.choice(present, len(where), p=chance)
    return picked


def _raw_bits(part: Coded) -> NDArray[np.int64]:
    kind: Numeral = part.numeral
    if part.mode is Mode.DELTA:
        return DELTA.raw.astype(np.int64)
    if not kind.mantissa:
        return np.zeros(256, np.int64)
    counts = np.full(256, 1 + kind.mantissa - VALUE_TOP_BITS - part.drop, np.int64)
    counts[VALUE_ZERO], counts[VALUE_ESCAPE] = 1, 8 * kind.width
    return counts


def _noise(rng: np.random.Generator, size: int) -> bytes:
    return rng.integers(0, 256, size).astype(np.uint8).tobytes()
