"""What a tensor encoder knows of one target on one base: how each piece is carried, what symbols occur, their tables.

Of large targets it looks at samples first: every element is turned into symbols twice, once to count it, once to write.
No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import low_rank, tables
from modelsync_protocol.codecs.adapted import Adapted
from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.segments import Coded, Mode, Same
from modelsync_server.encode.encoder import Source
from modelsync_server.low_rank import product_writer
from modelsync_server.low_rank.finder import Change
from modelsync_server.tensors import fitter, symbol_writer, table_builder
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.framer import Estimate, Fitted
from modelsync_server.tensors.pieces import Chunk, Piece, elements, part
from modelsync_server.tensors.sample import Sample

_UNSEEN_BITS = 14.0
"""What a symbol is taken to cost that no table has yet."""

_BLOCK = 1 << 18
"""Elements that are turned into symbols at once: their arrays stay in a processor's cache."""

GroupKey = tuple[int, int, bool, bool]
"""Segments that share tables: element type, mode, whether there is a base, and whether it is changed first."""

_FACTORS: tuple[GroupKey, GroupKey] = ((-1, 0, False, False), (-1, 1, False, False))
"""The groups of products' factors: integers, floats."""


class TensorStatistics:
    """One target on one base: fits pieces, counts symbols, makes tables."""

    def __init__(
        self,
        base: Source | None,
        target: Source,
        pool: Executor,
        changes: Mapping[int, Change] | None = None,
        effort: Effort = Effort.MAX,
    ) -> None:
        self.base = base
        self.base_stream = base.stream if base is not None else memoryview(b"")
        self.target = target
        self.pool = pool
        self.effort = effort
        self.changes = {at: (number, change) for number, (at, change) in enumerate(sorted((changes or {}).items()))}
        self.products = [product_writer.Parts.of(change) for _, change in self.changes.values()]

    def elements(self, piece: Piece) -> tuple[Unsigned, Unsigned | None]:
        """A piece's elements and their counterparts."""
        new = elements(self.target.stream, piece.offset, piece.count, piece.numeral)
        if piece.base_offset is None:
            return new, None
        return new, elements(self.base_stream, piece.base_offset, piece.count, piece.numeral)

    def fit(self, piece: Piece) -> Fitted:
        """Choose how a piece is carried."""
        new, old = self.elements(piece)
        if old is not None and piece.base_offset is not None and _equal(new, old):
            return Fitted(piece, Same(piece.end - piece.offset, piece.base_offset))
        found = self.changes.get(piece.offset - piece.first * piece.numeral.width)
        if found is not None and old is not None:
            number, change = found
            columns, width = change.product.columns, piece.numeral.width
            place = Adapted(number, 0, change.product)
            assert piece.base_offset is not None
            begin, count = piece.base_offset - piece.first * width, change.product.count
            whole = Coded(Mode.DELTA, piece.numeral, 0, count, begin, columns, 0, change.level, factors=change.factors)
            segment = part(replace(whole, adapted=place), piece.first, piece.count)
            return Fitted(piece, segment)
        options = fitter.fits(piece, new, old, sample=self.sample(piece))
        return Fitted(piece, options[0].segment, tuple(options))

    def sample(self, piece: Piece) -> Sample | None:
        """What is looked at of a piece where all of it would take long; None: all of it."""
        return None if self.effort is Effort.MAX else Sample.of(piece)

    def refit(self, item: Fitted, coding: Coding, groups: dict[GroupKey, int]) -> Fitted:
        """Choose again, by what the options cost with these tables; those that were not chosen are forgotten."""
        if len(item.options) < 2:
            return replace(item, options=())
        sample = self.sample(item.piece)
        costs = []
        for option in item.options:
            group = groups.get(_group_key(option.segment))
            if group is None:
                costs.append(float("inf"))
                continue
            found = self._symbols(item, option.segment, sample)
            total = float(coding.costs(group, found, _UNSEEN_BITS).sum(dtype=np.float64))
            costs.append(total * (sample.scale if sample else 1) + option.side_bits)
        return replace(item, segment=item.options[int(np.argmin(costs))].segment, options=())

    def symbols(self, item: Fitted, segment: Coded) -> symbol_writer.Symbols:
        """Symbols of a whole piece, carried as `segment` says."""
        new, old = self.elements(item.piece)
        return symbol_writer.symbols_of(segment, new, None if segment.base_offset is None else old)

    def _symbols(self, item: Fitted, segment: Coded, sample: Sample | None) -> symbol_writer.Symbols:
        """Symbols of a sample; of the whole piece without one."""
        if sample is None or segment.adapted is not None:
            return self.symbols(item, segment)
        new, old = self.elements(item.piece)
        taken = None if segment.base_offset is None or old is None else sample.take(old)
        return symbol_writer.symbols_of(sample.part(segment), sample.take(new), taken)

    def _blocks(self, item: Fitted, segment: Coded) -> Iterator[tuple[slice, symbol_writer.Symbols]]:
        """Symbols of a whole piece, a block of its elements at a time."""
        new, old = self.elements(item.piece)
        for begin in range(0, len(new), _BLOCK):
            place = slice(begin, min(begin + _BLOCK, len(new)))
            block = part(segment, begin, place.stop - begin)
            lean = None if segment.base_offset is None or old is None else old[place]
            yield place, symbol_writer.symbols_of(block, new[place], lean)

    def settle(self, fitted: list[Fitted]) -> tuple[Coding | None, bytes, list[Fitted]]:
        """Make tables, let each piece choose again by what they make of it, and make tables of that."""
        _, fitted = self._chosen(fitted)
        return self.make_tables(fitted)

    def settle_run(
        self, fitted: list[Fitted], chunks: Sequence[Chunk]
    ) -> tuple[Coding | None, bytes, list[Fitted], dict[int, Estimate]]:
        """As `settle`, and `estimates` of changed chunks, which may come from a sample's tables."""
        if self.effort is Effort.MAX:
            coding, shared, fitted = self.settle(fitted)
            return coding, shared, fitted, self.estimates(chunks, fitted, coding)
        rough, fitted = self._chosen(fitted)
        groups = {} if rough is None else rough[1]
        edges = np.array([chunk[0] for chunk in chunks], np.int64)
        costs = {chunk[0]: Estimate() for chunk in chunks}

        def counted(item: Fitted) -> tuple[int, NDArray[np.int64] | int]:
            # In the same pass: what the element costs, by the tables that are there.
            if not isinstance(item.segment, Coded) or rough is None:
                estimates.append(self._estimate(item, edges, None))
                return 0, 0
            group = groups.get(_group_key(item.segment))
            cells, bits = self._pass(item, item.segment, rough[0], group)
            estimates.append(_by_chunk(item, edges, bits))
            return item.segment.group, cells

        estimates: list[list[tuple[int, float, int]]] = []
        coding, shared, fitted = self.make_tables(fitted, count=counted)
        if coding is None:
            estimates = [self._estimate(item, edges, None) for item in fitted]
        _add_up(costs, sorted(found for group in estimates for found in group))
        return coding, shared, fitted, costs

    def _chosen(self, fitted: list[Fitted]) -> tuple[tuple[Coding, dict[GroupKey, int]] | None, list[Fitted]]:
        """Pieces that chose again by first tables, and those with their groups' numbers."""
        coding, _, fitted = self.make_tables(fitted, count=self._count_sample)
        if coding is None:
            return None, fitted
        groups = {_group_key(item.segment): item.segment.group for item in fitted if isinstance(item.segment, Coded)}
        return (coding, groups), list(self.pool.map(lambda item: self.refit(item, coding, groups), fitted))

    def make_tables(
        self,
        fitted: list[Fitted],
        most: int = tables.MAX_TABLES,
        *,
        count: Callable[[Fitted], tuple[int, NDArray[np.int64] | int]] | None = None,
    ) -> tuple[Coding | None, bytes, list[Fitted]]:
        """Number the groups of alike segments, count their symbols and make their tables, at most `most`."""
        found = {_group_key(item.segment) for item in fitted if isinstance(item.segment, Coded)}
        if not found:
            return None, b"", fitted
        keys = sorted(found | {_FACTORS[parts.floats] for parts in self.products})
        numbers = {key: number for number, key in enumerate(keys)}
        fitted = [
            replace(item, segment=replace(item.segment, group=numbers[_group_key(item.segment)]))
            if isinstance(item.segment, Coded)
            else item
            for item in fitted
        ]
        counts = np.zeros((len(keys), tables.MAX_CONTEXTS, 256), np.int64)
        for group, cells in self.pool.map(count or self._count, fitted):
            counts[group] += cells
        products = [parts.in_group(numbers[_FACTORS[parts.floats]]) for parts in self.products]
        for parts in products:
            for symbols in parts.symbols():
                counts[numbers[_FACTORS[parts.floats]]] += symbol_writer.cells_of(symbols)
        models = [table_builder.build(cells, most // len(keys)) for cells in counts]
        coding = Coding.of(models)
        shared = tables.write([model.group for model in models])
        return coding, low_rank.write_tables(shared, [parts.stored(coding) for parts in products]), fitted

    def _count(self, item: Fitted) -> tuple[int, NDArray[np.int64] | int]:
        if not isinstance(item.segment, Coded):
            return 0, 0
        return item.segment.group, self._pass(item, item.segment, None, None)[0]

    def _count_sample(self, item: Fitted) -> tuple[int, NDArray[np.int64] | int]:
        sample = self.sample(item.piece)
        if not isinstance(item.segment, Coded) or sample is None:
            return self._count(item)
        cells = symbol_writer.cells_of(self._symbols(item, item.segment, sample))
        return item.segment.group, np.rint(cells * sample.scale).astype(np.int64)

    def _pass(
        self, item: Fitted, segment: Coded, known: Coding | None, group: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """How often each symbol occurs in each context, and with `known` tables what each element costs in bits."""
        cells = np.zeros((tables.MAX_CONTEXTS, 256), np.int64)
        bits = None if known is None else np.empty(item.piece.count, np.float32)
        for place, found in self._blocks(item, segment):
            cells += symbol_writer.cells_of(found)
            if known is not None and bits is not None:
                bits[place] = _UNSEEN_BITS + found.counts if group is None else known.costs(group, found, _UNSEEN_BITS)
        return cells, bits

    def estimates(self, chunks: Sequence[Chunk], fitted: list[Fitted], coding: Coding | None) -> dict[int, Estimate]:
        """Per chunk (by offset) what its tensor elements will cost."""
        edges = np.array([chunk[0] for chunk in chunks], np.int64)
        result = {chunk[0]: Estimate() for chunk in chunks}
        for found in self.pool.map(lambda item: self._estimate(item, edges, coding), fitted):
            _add_up(result, found)
        return result

    def _estimate(self, item: Fitted, edges: NDArray[np.int64], coding: Coding | None) -> list[tuple[int, float, int]]:
        if not isinstance(item.segment, Coded) or coding is None:
            return _by_chunk(item, edges, None)
        found = self.symbols(item, item.segment)
        return _by_chunk(item, edges, coding.costs(item.segment.group, found))


def _equal(new: Unsigned, old: Unsigned) -> bool:
    """Whether all elements are the same; most pieces differ near their beginning."""
    return bool(np.array_equal(new[:_BLOCK], old[:_BLOCK]) and np.array_equal(new, old))


def _by_chunk(item: Fitted, edges: NDArray[np.int64], bits: NDArray[np.float32] | None) -> list[tuple[int, float, int]]:
    """(offset, payload bytes, bytes of elements) of each chunk that a piece touches, from each element's bits."""
    piece, width = item.piece, item.piece.numeral.width
    first = int(np.searchsorted(edges, piece.offset, "right")) - 1
    last = int(np.searchsorted(edges, piece.end, "left"))
    inner = [-(-(int(edge) - piece.offset) // width) for edge in edges[first + 1 : last]]
    counts = np.diff([0, *inner, piece.count])
    offsets = [int(edge) for edge in edges[first:last]]
    if bits is None or not isinstance(item.segment, Coded):
        return [(offset, 4.0, int(n) * width) for offset, n in zip(offsets, counts, strict=True)]
    sums = np.add.reduceat(bits, np.minimum([0, *inner], piece.count - 1), dtype=np.float64)
    side = _side_bytes(item.segment) / piece.count
    return [
        (offset, float(total) / 8 + side * int(n) + 12, int(n) * width)
        for offset, total, n in zip(offsets, sums, counts, strict=True)
    ]


def _add_up(result: dict[int, Estimate], found: Sequence[tuple[int, float, int]]) -> None:
    for offset, payload, covered in found:
        known = result[offset]
        result[offset] = Estimate(known.payload + payload, known.covered + covered)


def _group_key(segment: Coded) -> GroupKey:
    return segment.numeral.code, segment.mode, segment.base_offset is not None, segment.adapted is not None


def _side_bytes(segment: Coded) -> float:
    size = 8.0 + sum(len(values) for values in (segment.rows, segment.offsets) if values is not None) / 2
    return size + (3.0 * len(segment.factors.values) if segment.factors is not None else 0.0)
