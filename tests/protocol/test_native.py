"""The compiled core against the NumPy reference: same bytes, same refusals, whatever the numbers are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from modelsync_protocol import chunker, codecs
from modelsync_protocol.codecs import models, numerals, rans, tables, tensor_frame
from modelsync_protocol.codecs.adapted import ADAPTABLE, Adapted, Merged, Product
from modelsync_protocol.codecs.numerals import NUMERALS, Numeral
from modelsync_protocol.codecs.segments import Coded, Factors, Mode, Predictor, factor_count, row_count
from modelsync_protocol.codecs.symbols import DELTA, VALUE_TOP_BITS
from modelsync_protocol.errors import FormatError
from modelsync_protocol.native import core as native
from modelsync_protocol.native import library
from modelsync_protocol.native import writer as native_writer
from modelsync_server.tensors import rans_writer, symbol_writer
from tests.support import core_frames

pytestmark = pytest.mark.skipif(
    library.load().library is None and not os.environ.get("CI"), reason=f"no compiled core: {library.load().reason}"
)
_USERS = (chunker, rans, rans_writer, symbol_writer, tensor_frame)


def both(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> tuple[Any, Any]:
    """What `work` gives with the core and without; a FormatError is its class."""
    results = []
    for replacement, writer in ((native.core(), native_writer.writer()), (None, None)):
        with monkeypatch.context() as patch:
            for module in _USERS:
                patch.setattr(module, "core", lambda chosen=replacement: chosen)
            for module in (rans_writer, symbol_writer):
                patch.setattr(module, "writer", lambda chosen=writer: chosen)
            try:
                results.append(work())
            except FormatError:
                results.append(FormatError)
    assert native.core() is not None
    assert native_writer.writer() is not None
    return results[0], results[1]


def _elements(rng: np.random.Generator, kind: Numeral, count: int) -> Any:
    """Bits of all kinds: weights, and for floats infinities, NaN, subnormals and zeros of both signs."""
    bits = rng.integers(0, 1 << 8 * kind.width, count, np.uint64, endpoint=False) if kind.width < 8 else None
    if bits is None:
        bits = rng.integers(0, 1 << 64, count, np.uint64, endpoint=False)
    if kind.mantissa:
        near = numerals.narrowed(kind, rng.normal(0, 0.02, count)).astype(np.uint64)
        bits = np.where(rng.random(count) < 0.8, near, bits)
    return bits.astype(kind.unsigned_dtype)


def _segment(rng: np.random.Generator, kind: Numeral, predictor: Predictor, value: bool) -> Coded:
    columns = int(rng.choice([1, 3, 64, 100, 5000, 70_000]))
    count = int(rng.integers(1, 3000))
    column = int(rng.integers(0, columns))
    drop = 0
    if rng.random() < 0.4:
        drop = int(rng.integers(0, kind.mantissa - VALUE_TOP_BITS + 1 if value else 8 * kind.width))
    factors = None
    if predictor is not Predictor.IDENTITY:
        size = factor_count(predictor, count, columns, column)
        near = (1 << 12) + rng.integers(-300, 300, size)
        shifts = None if kind.mantissa else rng.integers(-5, 5, size).astype(np.int32)
        factors = Factors(predictor, 12, near.astype(np.int32), 0, shifts)
    rows = rng.integers(0, 4, row_count(count, columns, column)).astype(np.uint8) if rng.random() < 0.5 else None
    offsets = rng.integers(0, 6, min(count, columns)).astype(np.uint8) if rng.random() < 0.5 else None
    level = int(rng.integers(-50, 300)) if kind.mantissa else int(rng.integers(-3, 70))
    mode = Mode.VALUE if value else Mode.DELTA
    base = None if value and factors is None else 0
    return Coded(mode, kind, 0, count, base, columns, column, level, rows, offsets, factors, drop)


def _codes(rng: np.random.Generator, count: int) -> Any:
    return np.array([tables.quantised(rng.integers(1, 2000, 256).astype(np.int64)) for _ in range(count)])


def _tables(rng: np.random.Generator, count: int) -> tables.Tables:
    codes = _codes(rng, count)
    widths = tuple(int(w) for w in np.linspace(0, 119, count).astype(int))
    return tables.read(tables.write([tables.Group(widths, codes)]))


_CASES = [
    pytest.param(kind, predictor, value, id=f"{kind.name}-{predictor.name.lower()}-{'value' if value else 'delta'}")
    for kind in NUMERALS
    for predictor in Predictor
    for value in (False, True)
    if (predictor is Predictor.IDENTITY or ((kind.mantissa or kind.width == 1) and not value))
    and (not value or kind.mantissa)
]


@pytest.mark.parametrize(("kind", "predictor", "value"), _CASES)
def test_predictions_tables_and_elements_are_the_references(
    kind: Numeral, predictor: Predictor, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng([kind.code, predictor, value])
    for _ in range(12):
        segment = _segment(rng, kind, predictor, value)
        base = _elements(rng, kind, segment.count).tobytes()
        group = _tables(rng, 5)
        raw = rng.bytes(segment.count * 9 + 8)
        symbols = rng.integers(0, 256, segment.count).astype(np.uint8)
        if not value:  # symbols that this width has
            most = kind.width * 8 + 1
            symbols = np.where(DELTA.raw[symbols] > most, np.uint8(0), symbols).astype(np.uint8)

        def decoded(segment: Coded = segment, base: bytes = base, raw: bytes = raw, symbols: Any = symbols) -> Any:
            out, chosen = bytearray(segment.length), np.empty(segment.count, np.uint8)
            tensor_frame._predict([(0, segment)], base, out, chosen, group)  # noqa: B023 - called in this round
            predicted = bytes(out)
            reader = rans.RawBits(raw)
            tensor_frame._correct([(0, segment)], out, symbols.copy(), reader, group)  # noqa: B023
            return predicted, chosen.tobytes(), bytes(out), reader.borrow()[2]

        fast, slow = both(monkeypatch, decoded)
        assert fast == slow, segment

        short = raw[: len(raw) // 40]
        fast, slow = both(monkeypatch, lambda: decoded(raw=short))  # noqa: B023 - called in this round
        assert fast == slow


@pytest.mark.parametrize("kind", [kind for kind in NUMERALS if kind.mantissa], ids=lambda kind: kind.name)
@pytest.mark.parametrize("predictor", [Predictor.GLOBAL, Predictor.COLUMN])
def test_products_with_long_factors_are_rounded_once(
    kind: Numeral, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All halves, and as many others: products of which more bits are left over than a second rounding forgives."""
    rng = np.random.default_rng([kind.code, predictor])
    count = 1 << 16
    base = np.arange(count, dtype=np.uint16) if kind.width == 2 else _elements(rng, kind, count)
    group = _tables(rng, 3)
    for whole, precision in (((1 << 30) + 1, 30), ((1 << 30) - 1, 31), ((1 << 24) + 1, 40), ((1 << 31) - 1, 20)):
        values = np.full(1 if predictor is Predictor.GLOBAL else count, whole, np.int32)
        values -= rng.integers(0, 1 << 20, len(values)).astype(np.int32) * np.int32(predictor is Predictor.COLUMN)
        segment = Coded(Mode.DELTA, kind, 0, count, 0, count, 0, 9, factors=Factors(predictor, precision, values))

        def predicted(segment: Coded = segment) -> Any:
            out, chosen = bytearray(segment.length), np.empty(segment.count, np.uint8)
            tensor_frame._predict([(0, segment)], base.tobytes(), out, chosen, group)
            return bytes(out), chosen.tobytes()

        fast, slow = both(monkeypatch, predicted)
        assert fast == slow, (whole, precision)


def test_a_frame_outlives_the_memory_that_the_next_one_is_decoded_in() -> None:
    frames = [core_frames.frame(seed, 4000 if seed % 2 else 200) for seed in range(6)]

    def decoded(turn: int) -> list[bytes | bytearray]:
        order = [*frames[turn:], *frames[:turn]]
        made = [codecs.decode(codecs.RANS_DELTA, f.payload, f.length, f.base, b"", f.shared) for f in order]
        return [*made[len(frames) - turn :], *made[: len(frames) - turn]]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(decoded, range(6)))
    assert all(result == results[0] for result in results)
    with core_frames.reference():
        assert decoded(0) == results[0]


@pytest.mark.parametrize("kind", NUMERALS, ids=lambda kind: kind.name)
def test_symbols_are_the_references(kind: Numeral, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(kind.code)
    for drop in (0, 1, 8 * kind.width - 1):
        old = _elements(rng, kind, 4001)
        new = np.where(
            rng.random(4001) < 0.7, old + rng.integers(0, 9, 4001).astype(old.dtype), _elements(rng, kind, 4001)
        )
        for prediction in (old, None):

            def letters(prediction: Any = prediction, new: Any = new, drop: int = drop) -> Any:
                made = symbol_writer.delta_letters(kind, new, prediction, drop)
                return made.symbols.tobytes(), made.counts.tobytes(), made.fields.tobytes()

            fast, slow = both(monkeypatch, letters)
            assert fast == slow


@pytest.mark.parametrize(("kind", "predictor", "value"), _CASES)
def test_what_a_publisher_makes_of_elements_is_the_references(
    kind: Numeral, predictor: Predictor, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng([kind.code, predictor, value, 1])
    for turn in range(10):
        parts = [_segment(rng, kind, predictor, value) for _ in range(1 + turn % 3)]
        old = [_elements(rng, kind, part.count) for part in parts]
        new = [
            np.where(rng.random(len(bits)) < 0.7, bits + rng.integers(0, 9, len(bits)).astype(bits.dtype), noise)
            for bits in old
            for noise in [_elements(rng, kind, len(bits))]
        ]
        new = [bits.astype(kind.unsigned_dtype) for bits in new]
        prices = rng.random((256, 256), np.float32).reshape(-1)

        def written(parts: Any = parts, new: Any = new, old: Any = old, prices: Any = prices) -> Any:
            fields = rans_writer.Fields(sum(bits.nbytes for bits in new))
            said = []
            for part, bits, base in zip(parts, new, old, strict=True):
                lean = None if part.base_offset is None else base
                found = symbol_writer.symbols_of(part, bits, lean, fields)
                again = symbol_writer.symbols_of(part, bits, lean)
                assert np.array_equal(found.symbols, again.symbols)
                cells = symbol_writer.cells_of(found)
                costs = symbol_writer.costs(found.contexts, found.symbols, prices)
                said += [array.tobytes() for array in (found.contexts, found.symbols, found.counts, cells, costs)]
                assert symbol_writer.raw_bits(cells, found.raw) == int(found.counts.sum(dtype=np.int64))
                guess = None if lean is None else models.predicted(part, lean, 0)
                assert np.array_equal(symbol_writer.contexts_of(part, part.count, guess), found.contexts)
            return said, fields.packed()

        fast, slow = both(monkeypatch, written)
        assert fast == slow, (turn, parts)


@pytest.mark.parametrize("lanes", [1, 64, 4096])
@pytest.mark.parametrize("total", [1, 63, 20_000])
def test_symbols_in_rows_of_tables_are_encoded_alike(lanes: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([lanes, total, 2])
    frequencies = np.stack([tables.frequencies(row) for row in _codes(rng, 7)])
    steps = np.zeros((256, 256), np.uint32)
    steps[:7] = frequencies | (np.cumsum(frequencies, 1) - frequencies) << 16
    rows = rng.integers(0, 7, total).astype(np.uint8)
    symbols = np.array([rng.choice(np.flatnonzero(frequencies[row])) for row in rows], np.uint8)
    seeds = rng.integers(0, 1 << 16, lanes).astype(np.uint16)
    flat = steps.reshape(-1)
    fast, slow = both(monkeypatch, lambda: rans_writer.encode_rows(rows, symbols, flat, seeds))
    assert fast == slow
    with pytest.raises(ValueError, match="no frequency"):
        rans_writer.encode_rows(rows + np.uint8(9), symbols, flat, seeds)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", ADAPTABLE, ids=lambda kind: kind.name)
def test_changes_of_low_rank_are_the_references(kind: Numeral, merged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([kind.code, merged])
    for turn in range(12):
        rows, columns, rank = (int(rng.integers(1, most)) for most in (90, 700, 40))
        product: Product | Merged
        if merged:
            size = np.float32(rng.choice([1e-30, 1e-2, 1e25]))  # sums that vanish, that matter, that overflow
            singles = [rng.normal(0, size, s).astype(np.float32) for s in ((rows, rank), (rank, columns))]
            product = Merged(singles[0], singles[1], np.float32(rng.normal()))
        else:
            reach = (1 << int(rng.integers(2, 28))) + 1
            whole = [rng.integers(-reach, reach, s).astype(np.int32) for s in ((rows, rank), (rank, columns))]
            product = Product(np.asfortranarray(whole[0]), whole[1], int(rng.integers(0, 61)))
        first = int(rng.integers(rows * columns))
        count = int(rng.integers(1, rows * columns - first + 1))
        shape = int(rng.integers(1, 200)), int(rng.integers(0, 7))
        factors = None
        if not kind.mantissa and turn % 3:
            predictor = Predictor(1 + turn % 3)
            places = factor_count(predictor, count, shape[0], shape[1] % shape[0])
            near = ((1 << 12) + rng.integers(-900, 900, places)).astype(np.int32)
            factors = Factors(predictor, 12, near, 0, rng.integers(-5, 5, places).astype(np.int32))
        level = int(rng.integers(-20, 130))
        place = Adapted(0, first, product)
        segment = Coded(
            Mode.DELTA, kind, 0, count, 0, shape[0], shape[1] % shape[0], level, factors=factors, adapted=place
        )
        base = _elements(rng, kind, count).tobytes()
        group = _tables(rng, 9)

        def predicted(base: bytes | bytearray, segment: Coded = segment, group: tables.Tables = group) -> Any:
            out = base if isinstance(base, bytearray) else bytearray(segment.length)
            chosen = np.empty(segment.count, np.uint8)
            tensor_frame._predict([(0, segment)], base, out, chosen, group)
            return bytes(out), chosen.tobytes()

        fast, slow = both(monkeypatch, lambda: predicted(base))  # noqa: B023 - called in this round
        assert fast == slow, (turn, segment)
        fast, slow = both(monkeypatch, lambda: predicted(bytearray(base)))  # noqa: B023
        assert fast == slow == predicted(base), (turn, segment)


def test_a_frame_over_its_base_is_built_in_its_memory_and_comes_out_the_same() -> None:
    in_place = 0
    for seed in range(60):
        made = core_frames.frame(seed, 300)
        base = made.base[: made.length].ljust(made.length, b"x")  # as long as the frame: most segments lie elsewhere
        for payload in (made.payload, core_frames.damaged(made, seed)):
            results = []
            for given in (base, bytearray(base)):
                try:
                    decoded = codecs.decode(codecs.RANS_DELTA, payload, made.length, given, b"", made.shared)
                    in_place += decoded is given and decoded is not base
                    results.append(bytes(decoded))
                except FormatError:
                    results.append(b"refused")
            assert results[0] == results[1], seed
    assert in_place


@pytest.mark.parametrize("lanes", [1, 2, 64, 4096])
@pytest.mark.parametrize("total", [0, 1, 63, 5000, 20_000])
def test_rans_there_and_back(lanes: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([lanes, total])
    group = _tables(rng, 7)
    selectors = rng.integers(0, 7, total).astype(np.uint8)
    slots = rng.integers(0, tables.TOTAL, total)
    places = selectors.astype(np.intp) * tables.TOTAL + slots
    names, steps = group.slots()
    step = steps[places]
    starts = (slots - (step >> 13)).astype(np.uint32)
    seeds = rng.integers(0, 1 << 16, lanes).astype(np.uint16)
    written = both(monkeypatch, lambda: rans_writer.encode_symbols((step & 8191).astype(np.uint32), starts, seeds))
    assert written[0] == written[1]
    states, words = np.frombuffer(written[0][0], "<u4"), np.frombuffer(written[0][1], "<u2")

    def read(states: Any = states, words: Any = words) -> Any:
        symbols = selectors.copy()
        left = rans.decode_symbols(group, symbols, states, words)
        return symbols.tobytes(), left.tobytes()

    fast, slow = both(monkeypatch, read)
    assert fast == slow == (names[places].tobytes(), seeds.tobytes())
    for hostile in (words[:-1], np.append(words, np.uint16(7)), words[:0]):
        fast, slow = both(monkeypatch, lambda hostile=hostile: read(words=hostile))  # type: ignore[misc]
        assert fast == slow
    fast, slow = both(monkeypatch, lambda: read(states=rng.integers(0, 1 << 32, lanes).astype(np.uint32) * 0))
    assert fast == slow


def test_fields_of_any_width_are_packed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for most in (0, 1, 17, 64):
        counts = rng.integers(0, most + 1, 3000).astype(np.uint8)
        fields = rng.integers(0, 1 << 64, 3000, np.uint64, endpoint=False)
        fast, slow = both(monkeypatch, lambda counts=counts, fields=fields: rans_writer.pack_bits(fields, counts))  # type: ignore[misc]
        assert fast == slow


def test_cuts_by_content_are_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(2).bytes(9_000_001)  # more than two blocks
    for piece in (data, data[:5000], data[:4096], b"", bytes(300_000)):
        fast, slow = both(monkeypatch, lambda piece=piece: chunker.chunk_sizes("x.bin", memoryview(piece)))  # type: ignore[misc]
        assert fast == slow


def test_factors_out_of_bounds_are_refused_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Factors(Predictor.GLOBAL, 0, np.array([1 << 20], np.int32), 0, np.array([0], np.int32))
    segment = Coded(Mode.DELTA, numerals.I8, 0, 10, 0, 10, 0, 5, factors=far)
    with pytest.raises(FormatError):
        models.integer_map(far)

    def predicted() -> Any:
        tensor_frame._predict(
            [(0, segment)], bytes(10), bytearray(10), np.empty(10, np.uint8), _tables(np.random.default_rng(3), 2)
        )

    assert both(monkeypatch, predicted) == (FormatError, FormatError)


@pytest.mark.parametrize(
    ("value", "said"),
    [("off", "MODELSYNC_CORE=off"), ("/nonexistent.so", "does not load"), (sys.executable, "does not load")],
)
def test_a_process_without_the_core_says_why_and_goes_on(value: str, said: str) -> None:
    code = (
        "from modelsync_protocol.native import core, library; from modelsync_protocol import chunker;"
        "assert core.core() is None; chunker.chunk_sizes('x', memoryview(bytes(99999))); print(library.load().reason)"
    )
    environment = {**os.environ, library.VARIABLE: value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said in done.stdout


@pytest.mark.parametrize("seed", range(24))
def test_whole_frames_come_out_alike_and_damage_is_refused_alike(seed: int) -> None:
    made = core_frames.frame(seed, 40_000 if seed % 12 == 11 else 400)
    fast, slow = core_frames.both(made, made.payload)
    assert fast == slow != "refused"
    for number in range(4):
        fast, slow = core_frames.both(made, core_frames.damaged(made, 100 * seed + number))
        assert fast == slow
