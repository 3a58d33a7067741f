"""Writes products' factors for an object's tables, as `modelsync_protocol.codecs.low_rank` reads them. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.adapted import Merged, Product
from modelsync_protocol.codecs.low_rank import Stored
from modelsync_protocol.codecs.numerals import Unsigned
from modelsync_protocol.codecs.segments import Coded
from modelsync_server.low_rank.finder import Change
from modelsync_server.tensors import fitter, frame_writer, symbol_writer
from modelsync_server.tensors.frame_writer import Coding
from modelsync_server.tensors.pieces import Piece


@dataclass(frozen=True, slots=True)
class Parts:
    """A change, and its left factor (transposed) and right factor as segments with their elements."""

    change: Change
    segments: tuple[Coded, ...]
    elements: tuple[Unsigned, ...]

    @classmethod
    def of(cls, change: Change) -> Parts:
        """Choose how the factors are carried: part by part of the rank, each with a level of its own."""
        segments, found = [], []
        whole = isinstance(change.product, Product)
        kind = numerals.I32 if whole else numerals.F32
        for factor in (change.product.left.T, change.product.right):
            bits = np.ascontiguousarray(factor.astype("<i4" if whole else "<f4")).view("<u4").reshape(-1)
            piece = Piece(0, bits.size, kind, 0, (factor.shape[1],), None)
            segments.append(fitter.fits(piece, bits, None)[0].segment)
            found.append(bits)
        return cls(change, tuple(segments), tuple(found))

    @property
    def floats(self) -> bool:
        """Whether the factors travel as they stand in an adapter."""
        return isinstance(self.change.product, Merged)

    def in_group(self, group: int) -> Parts:
        """The same, coded with the tables of that group."""
        return replace(self, segments=tuple(replace(segment, group=group) for segment in self.segments))

    def symbols(self) -> list[symbol_writer.Symbols]:
        """What the tables have to provide for."""
        return [symbol_writer.symbols_of(s, bits, None) for s, bits in zip(self.segments, self.elements, strict=True)]

    def stored(self, coding: Coding) -> Stored:
        """The product as it stands in the tables."""
        data = b"".join(bits.tobytes() for bits in self.elements)
        payload = frame_writer.write(self.segments, data, b"", b"", coding)
        product = self.change.product
        rows, rank = product.left.shape
        if isinstance(product, Merged):
            return Stored(rows, product.columns, rank, payload, scale=product.scale)
        return Stored(rows, product.columns, rank, payload, product.precision)
