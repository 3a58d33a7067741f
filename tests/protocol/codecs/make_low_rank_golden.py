"""Makes the golden vectors of encoding 6. Run once per kind: what is released never changes.

python -m tests.protocol.codecs.make_low_rank_golden (writes into tests/protocol/golden/low_rank/)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import codecs
from modelsync_protocol.codecs import low_rank, models, numerals, tables
from modelsync_protocol.codecs.adapted import Adapted, Merged, Product
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.codecs.segments import Coded, Factors, Gap, Mode, Predictor, Segment
from modelsync_server.low_rank import product_writer
from modelsync_server.low_rank.finder import Change
from modelsync_server.tensors import frame_writer, symbol_writer, table_builder
from modelsync_server.tensors.frame_writer import Coding
from tests.protocol.codecs.make_golden import specials

OUT = Path(__file__).parents[1] / "golden" / "low_rank"
ROWS, COLUMNS, RANK = 24, 40, 3


@dataclass(frozen=True, slots=True)
class Vector:
    """One frame, all that it needs, and what it stands for."""

    payload: bytes
    base: bytes
    tables: bytes
    target: bytes


def products(seed: int) -> list[Product | Merged]:
    """One of integers with sums beyond 2^53, and one as merged with a subnormal sum and a scale that is no power."""
    source = np.random.default_rng(seed)
    left = source.normal(0, 0.3, (ROWS, RANK))
    right = source.normal(0, 0.02, (RANK, COLUMNS))
    whole = [np.rint(factor * 2.0**29).astype(np.int64) for factor in (left, right)]
    whole[1][0, :4] = [2**30, -(2**30), 2**30 - 1, 1]
    merged = Merged(left.astype(np.float32), right.astype(np.float32), np.float32(16 / 7))
    merged.right[:, 5] = np.float32(1e-41)
    return [Product(whole[0], whole[1], 58), merged]


def vector(kind: Numeral, seed: int) -> Vector:
    """A frame of `kind` with a matrix for each product, one of them begun in the middle of a row, and bytes between."""
    source = np.random.default_rng(seed)
    segments: list[Segment] = []
    base, target = bytearray(), bytearray()
    made = products(seed)
    for number, product in enumerate(made):
        first = 7 * number
        count = ROWS * COLUMNS - first
        with np.errstate(all="ignore"):
            old = numerals.narrowed(kind, source.normal(0, 0.05, count))
            extra = specials(kind)
            old[source.choice(count, len(extra), replace=False)] = extra
            moved = numerals.widened(kind, old) + product.values(first, count)
            new = numerals.narrowed(kind, moved)
        places = source.choice(count, 60, replace=False)
        new[places] = (new[places].astype(np.int64) + source.integers(-3, 4, 60)).astype(kind.unsigned_dtype)
        new[source.choice(count, len(extra), replace=False)] = np.roll(extra, 3)
        place = Adapted(number, first, product)
        level = kind.exponent_mask // 2 - 14
        segments.append(Coded(Mode.DELTA, kind, number, count, len(base), COLUMNS, 0, level, adapted=place))
        base += old.tobytes()
        target += new.tobytes()
        segments.append(Gap(11))
        base += b"in between."
        target += b"in between!"
    return _written(segments, bytes(target), bytes(base), made)


def byte_vector(kind: Numeral, seed: int) -> Vector:
    """The same for 8-bit integers: once with rows rescaled, once as they are, both clipped at the type's ends."""
    source = np.random.default_rng(seed)
    segments: list[Segment] = []
    base, target = bytearray(), bytearray()
    made = products(seed)
    for number, product in enumerate(made):
        count = ROWS * COLUMNS
        old = np.frombuffer(source.bytes(count), np.uint8)
        factors = None
        if not number:
            slopes, shifts = source.integers(1900, 2200, ROWS), source.integers(-60, 60, ROWS)
            factors = Factors(Predictor.ROW, 11, slopes.astype(np.int32), 4, shifts.astype(np.int32))
        place = Adapted(number, 0, product)
        segment = Coded(Mode.DELTA, kind, number, count, len(base), COLUMNS, 0, 0, factors=factors, adapted=place)
        new, _ = models.modelled(segment, old, 0, count)
        assert new is not None
        new = new + source.integers(-2, 3, count).astype(np.int8).view(np.uint8)
        segments.append(segment)
        base += old.tobytes()
        target += new.tobytes()
    return _written(segments, bytes(target), bytes(base), made)


def _written(segments: list[Segment], target: bytes, base: bytes, made: list[Product | Merged]) -> Vector:
    parts = [product_writer.Parts.of(Change(product, 0)).in_group(2 + n) for n, product in enumerate(made)]
    counts = np.zeros((4, tables.MAX_CONTEXTS, 256), np.int64)
    position = 0
    for segment in segments:
        if isinstance(segment, Coded):
            dtype = segment.numeral.unsigned_dtype
            new, old = (
                np.frombuffer(data, dtype, segment.count, at)
                for data, at in ((target, position), (base, segment.base_offset or 0))
            )
            _count(counts[segment.group], symbol_writer.symbols_of(segment, new, old))
        position += segment.length
    for part in parts:
        for symbols in part.symbols():
            _count(counts[part.segments[0].group], symbols)
    models = [table_builder.build(cells, 20) for cells in counts]
    coding = Coding.of(models)
    shared = low_rank.write_tables(tables.write([m.group for m in models]), [part.stored(coding) for part in parts])
    payload = low_rank.front(segments) + frame_writer.write(segments, target, base, b"", coding)
    return Vector(payload, base, shared, target)


def _count(cells: NDArray[Any], found: symbol_writer.Symbols) -> None:
    np.add.at(cells, (found.contexts, found.symbols), 1)


def vectors() -> dict[str, Vector]:
    """By name."""
    found = {kind.name: vector(kind, 60 + kind.code) for kind in (numerals.F32, numerals.F16, numerals.BF16)}
    return found | {kind.name: byte_vector(kind, 60 + kind.code) for kind in (numerals.I8, numerals.U8)}


def main() -> None:
    """Write all vectors and their list."""
    OUT.mkdir(exist_ok=True)
    listed = []
    for name, made in vectors().items():
        data = codecs.decode(codecs.LOW_RANK, made.payload, len(made.target), made.base, b"", made.tables)
        assert data == made.target, name
        for part in ("payload", "base", "tables"):
            (OUT / f"{name}.{part}").write_bytes(getattr(made, part))
        listed.append(
            {"name": name, "encoding": codecs.LOW_RANK, "length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    (OUT / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    files = sorted(path for path in OUT.iterdir() if path.name != "SHA256SUMS")
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (OUT / "SHA256SUMS").write_text(sums, encoding="utf-8")


if __name__ == "__main__":
    main()
