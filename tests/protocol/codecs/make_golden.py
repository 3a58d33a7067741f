"""Makes the golden vectors of encodings 3, 4, 5 and 8. Run once per format version: what is released never changes.

python tests/protocol/codecs/make_golden.py (writes into tests/protocol/golden/codecs/)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import codecs
from modelsync_protocol.codecs import numerals, tables
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.codecs.segments import Coded, Factors, Gap, Mode, Predictor, Same, Segment
from modelsync_server.tensors import frame_writer, symbol_writer, table_builder
from modelsync_server.tensors.frame_writer import Coding

OUT = Path(__file__).parents[1] / "golden" / "codecs"
ROWS, COLUMNS = 12, 40


@dataclass(frozen=True, slots=True)
class Vector:
    """One frame, all that it needs, and what it stands for."""

    name: str
    encoding: int
    payload: bytes
    base: bytes
    tables: bytes
    target: bytes


def specials(kind: Numeral) -> NDArray[Any]:
    """Bits of ±0, the smallest and largest subnormals and normals, infinities and NaNs with payloads."""
    mantissa, top = kind.mantissa, kind.exponent_mask << kind.mantissa
    positive = [0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, (1 << mantissa) + 1, top - 1, top - 2, top]
    positive += [top + 1, top + (1 << (mantissa - 1)), top + (1 << (mantissa - 1)) + 5, top + (1 << mantissa) - 1]
    sign = 1 << (8 * kind.width - 1)
    return np.array(positive + [value | sign for value in positive], kind.unsigned_dtype)


def float_pair(kind: Numeral, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Old and new bits: fine-tuned values of all magnitudes, with specials in both."""
    source = np.random.default_rng(seed)
    exponent = source.integers(1, kind.exponent_mask, ROWS * COLUMNS) if seed % 2 else None
    values = source.normal(0, 0.05, ROWS * COLUMNS)
    with np.errstate(all="ignore"):
        old = numerals.narrowed(kind, values)
        if exponent is not None:
            field = kind.unsigned_dtype.type(kind.mantissa)
            keep = kind.unsigned_dtype.type((1 << kind.mantissa) - 1 | 1 << (8 * kind.width - 1))
            old = (old & keep) | (exponent.astype(kind.unsigned_dtype) << field)
        new = numerals.narrowed(kind, numerals.widened(kind, old) * (1 + source.normal(0, 1e-3, len(old))))
    extra = specials(kind)
    for data, order in ((old, extra), (new, np.roll(extra, seed))):
        data[source.choice(len(data), len(extra), replace=False)] = order
    old[: len(extra)] = extra
    new[: len(extra)] = extra
    return old, new


def floats() -> Iterator[Vector]:
    """Encodings 4 and 5 of each float type with each predictor."""
    for kind in (numerals.F32, numerals.F16, numerals.BF16, numerals.F64):
        parts: list[tuple[Segment, bytes, bytes]] = []
        for seed, predictor in enumerate(Predictor):
            old, new = float_pair(kind, seed)
            source = np.random.default_rng(100 + seed)
            size = {Predictor.ROW: ROWS, Predictor.COLUMN: COLUMNS, Predictor.GLOBAL: 1}.get(predictor, 0)
            factors = None
            if size:
                values = ((1 + source.normal(0, 0.01, size)) * 2**14).astype(np.int32)
                factors = Factors(predictor, 14, values)
            rows = source.integers(1, 30, ROWS).astype(np.uint8)
            columns = source.integers(0, 9, COLUMNS).astype(np.uint8)
            level = 2 * (kind.exponent_mask // 2 + kind.mantissa) - 10
            delta = Coded(Mode.DELTA, kind, 0, len(new), 0, COLUMNS, 0, level, rows, columns, factors)
            parts.append((delta, new.tobytes(), old.tobytes()))
            level = 2 * (kind.exponent_mask // 2)
            value = Coded(Mode.VALUE, kind, 1, len(new), None, COLUMNS, 7 * (seed % 2), level)
            value_rows = source.integers(1, 30, value.row_count).astype(np.uint8)
            value = Coded(Mode.VALUE, kind, 1, len(new), None, COLUMNS, 7 * (seed % 2), level, value_rows, columns)
            parts.append((value, new.tobytes(), b""))
        parts.insert(2, (Gap(33), b"between the tensors" * 2, b"between the tensors, and more"))
        parts.insert(3, (Same(64, 0), bytes(range(64)), bytes(range(64))))
        yield frame(f"floats-{kind.name}", codecs.RANS_DELTA, parts)
        only = [(segment, data, b"") for segment, data, _ in parts if isinstance(segment, Coded | Gap)]
        fresh = [part for part in only if isinstance(part[0], Gap) or part[0].base_offset is None]
        yield frame(f"new-{kind.name}", codecs.RANS_NEW, fresh)


def integers() -> Iterator[Vector]:
    """Encodings 4 and 5 of each integer type, fixed-point maps included."""
    for kind in (numerals.I8, numerals.U8, numerals.I16, numerals.I32, numerals.I64):
        source = np.random.default_rng(kind.code)
        parts: list[tuple[Segment, bytes, bytes]] = []
        for predictor in Predictor if kind.width == 1 else (Predictor.IDENTITY,):
            old = np.frombuffer(source.bytes(ROWS * COLUMNS * kind.width), kind.unsigned_dtype)
            new = old + source.integers(-9, 10, len(old)).astype(kind.signed_dtype).view(kind.unsigned_dtype)
            new[:4] = np.array([0, 1, (1 << (8 * kind.width - 1)) - 1, 1 << (8 * kind.width - 1)], kind.unsigned_dtype)
            new[4:8] = ~new[:4]
            size = {Predictor.ROW: ROWS, Predictor.COLUMN: COLUMNS, Predictor.GLOBAL: 1}.get(predictor, 0)
            factors = None
            if size:
                slopes = source.integers(1900, 2200, size).astype(np.int32)
                factors = Factors(predictor, 11, slopes, 4, source.integers(-60, 60, size).astype(np.int32))
            rows = source.integers(0, 9, ROWS).astype(np.uint8)
            rows[rows == 0] = 1
            parts.append(
                (
                    Coded(Mode.DELTA, kind, 0, len(new), 0, COLUMNS, 0, 20, rows, None, factors),
                    new.tobytes(),
                    old.tobytes(),
                )
            )
            mode = Mode.VALUE if kind.width == 1 else Mode.DELTA
            parts.append((Coded(mode, kind, 1, len(new), None, len(new), 0, 50), new.tobytes(), b""))
        yield frame(f"integers-{kind.name}", codecs.RANS_DELTA, parts)


def dropped() -> Iterator[Vector]:
    """Elements whose lowest bits are zero: bfloat16 values as binary32, and thousands as int64."""
    old, new = (bits.astype("<u4") << np.uint32(16) for bits in float_pair(numerals.BF16, 2))
    level = 2 * (127 + 7) - 10
    parts: list[tuple[Segment, bytes, bytes]] = [
        (Coded(Mode.DELTA, numerals.F32, 0, len(new), 0, COLUMNS, 0, level, drop=16), new.tobytes(), old.tobytes()),
        (Coded(Mode.VALUE, numerals.F32, 1, len(new), None, COLUMNS, 0, 2 * 127, drop=16), new.tobytes(), b""),
    ]
    whole = np.arange(-240, 240, dtype="<i8") << 40
    parts.append((Coded(Mode.DELTA, numerals.I64, 2, 480, None, 480, 0, 40, drop=40), whole.tobytes(), b""))
    yield frame("dropped", codecs.RANS_DELTA, parts)


def frame(name: str, encoding: int, parts: Sequence[tuple[Segment, bytes, bytes]]) -> Vector:
    """Lay the parts' bases out one after the other, make tables for their groups, write the frame."""
    base, target = bytearray(), bytearray()
    placed: list[Segment] = []
    groups = sorted({segment.group for segment, _, _ in parts if isinstance(segment, Coded)})
    counts = np.zeros((len(groups), tables.MAX_CONTEXTS, 256), np.int64)
    for segment, new, old in parts:
        if isinstance(segment, Coded):
            at = len(base) if segment.base_offset is not None else None
            group = groups.index(segment.group)
            segment = replace(segment, group=group, base_offset=at)
            dtype = segment.numeral.unsigned_dtype
            found = symbol_writer.symbols_of(
                segment, np.frombuffer(new, dtype), None if at is None else np.frombuffer(old, dtype)
            )
            np.add.at(counts[group], (found.contexts, found.symbols), 1)
        elif isinstance(segment, Same):
            segment = Same(segment.length, len(base))
        elif isinstance(segment, Gap):
            segment = Gap(len(new))
        placed.append(segment)
        base += old
        target += new
    models = [table_builder.build(cells, 20) for cells in counts]
    payload = frame_writer.write(placed, bytes(target), bytes(base), b"", Coding.of(models))
    shared = tables.write([model.group for model in models])
    return Vector(name, encoding, payload, bytes(base), shared, bytes(target))


def records() -> Iterator[Vector]:
    """Encodings 3 and 8."""
    source = np.random.default_rng(8)
    rows = np.cumsum(source.integers(0, 3, (150, 12)), 0).astype("<u2").tobytes() + b"odd"
    yield Vector("records", codecs.TRANSPOSE, codecs.ENCODINGS[codecs.TRANSPOSE].encode(rows, b"", b""), b"", b"", rows)
    base = source.normal(size=600).astype("<f4").tobytes() + b"a model's metadata, version 1"
    new = bytearray(base[:1000] + b"inserted" + base[1000:].replace(b"version 1", b"version 22"))
    for place in range(0, 2000, 40):
        new[place] = (new[place] + 3) % 256
    payload = codecs.ENCODINGS[codecs.SUBTRACT].encode(bytes(new), base, b"")
    yield Vector("shifted", codecs.SUBTRACT, payload, base, b"", bytes(new))


def main() -> None:
    """Write all vectors and their list."""
    OUT.mkdir(parents=True, exist_ok=True)
    listed = []
    for vector in [*floats(), *integers(), *dropped(), *records()]:
        data = codecs.decode(vector.encoding, vector.payload, len(vector.target), vector.base, b"", vector.tables)
        assert data == vector.target, vector.name
        for part in ("payload", "base", "tables"):
            content: bytes = getattr(vector, part)
            if content:
                (OUT / f"{vector.name}.{part}").write_bytes(content)
        digest = hashlib.sha256(vector.target).hexdigest()
        listed.append(
            {"name": vector.name, "encoding": vector.encoding, "length": len(vector.target), "sha256": digest}
        )
    (OUT / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
