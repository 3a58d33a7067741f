"""Encoding 9: quants of blocks in the context of the old ones, all else as encoding 4 carries it. No I/O here.

FORMAT.md §blocks. A payload: runs, the rest (a payload of encoding 4), then the quants in rANS symbols.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.blocks import models, runs
from modelsync_protocol.blocks.models import Slab
from modelsync_protocol.blocks.runs import Run
from modelsync_protocol.codecs import rans, rans_delta, tables, tensor_frame
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

_MAX_LANE_BITS = 12


class BlockFrames:
    """Payloads with blocks in them are written by the publisher, which knows where they lie."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; without knowledge of blocks all of `target` is the rest."""
        inner = rans_delta.opaque(target, base, prefix)
        out = bytearray(runs.write([]))
        write_varint(out, len(inner))
        return bytes(out) + inner

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        return decode(payload, length, base, prefix, tables)


def decode(payload: bytes, length: int, base: bytes, prefix: bytes, shared: bytes) -> bytes:
    """See codecs.port.Encoding.decode; `shared` are the header's tables."""
    if length > caps.MAX_FRAME_BYTES:
        raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
    reader = Reader(payload, "a frame of blocks")
    found = runs.read(reader, length, len(base))
    inner = bytes(reader.take(reader.varint(caps.MAX_PAYLOAD_BYTES)))
    size = runs.rest_length(found, length)
    rest = bytes(tensor_frame.decode(inner, size, runs.rest_of_base(base, found), prefix, shared))
    if not found:
        reader.end()
        return rest
    lanes, count = 1 << reader.varint(_MAX_LANE_BITS), reader.varint(caps.MAX_PAYLOAD_BYTES // 2)
    states = np.frombuffer(reader.take(4 * lanes), "<u4")
    words = np.frombuffer(reader.take(2 * count), "<u2")
    reader.end()
    out = bytearray(length)
    outside = length - sum(run.length for run in found)
    _spread(rest[:outside], found, out)
    groups = tables.read(shared)
    selectors = np.empty(sum(run.quants for run in found), np.uint8)
    _select(found, groups, base, rest, outside, selectors)
    if rans.decode_symbols(groups, selectors, states, words).any():
        raise FormatError("a frame's quants do not end where they should.")
    _join(found, base, rest, outside, selectors, out)
    return bytes(out)


def slab(run: Run, base: bytes, rest: bytes, offset: int, first: int, last: int) -> Slab:
    """Contexts of the quants of blocks [first, last) of a run whose scales begin at `offset` of `rest`."""
    layout = run.layout
    if run.base_offset is None and not layout.fields:
        return models.plain((last - first) * layout.elements)
    new = runs.planes_of_rest(run, rest, offset, first, last)
    if run.base_offset is None:
        return models.alone(layout, layout.scales(new))
    planes, codes = layout.split(runs.raw(run, base, run.base_offset, first, last))
    if not layout.fields:
        return models.beside(codes)
    return models.on_base(layout, codes, layout.scales(planes), layout.scales(new))


def selected(run: Run, shared: tables.Tables, part: Slab) -> NDArray[np.uint8]:
    """The table of each quant of a slab."""
    count = models.table_groups(run.layout, run.base_offset is not None)
    if run.group + count > len(shared.contexts):
        raise FormatError("a frame of blocks names tables that the header lacks.")
    choose = np.stack(shared.contexts[run.group : run.group + count])
    chosen: NDArray[np.uint8] = choose[part.groups, part.contexts]
    return chosen


def _select(
    found: list[Run],
    shared: tables.Tables,
    base: bytes,
    rest: bytes,
    offset: int,
    selectors: NDArray[np.uint8],
) -> None:
    done = 0
    for run in found:
        for first, last in run.slabs():
            part = slab(run, base, rest, offset, first, last)
            size = len(part.contexts)
            selectors[done : done + size] = selected(run, shared, part)
            done += size
        offset += run.count * run.layout.plane_bytes


def _join(found: list[Run], base: bytes, rest: bytes, offset: int, symbols: NDArray[np.uint8], out: bytearray) -> None:
    done = 0
    for run in found:
        for first, last in run.slabs():
            part = slab(run, base, rest, offset, first, last)
            size = len(part.contexts)
            codes = models.unfolded(run.layout, part, symbols[done : done + size])
            done += size
            raw = run.layout.join(runs.planes_of_rest(run, rest, offset, first, last), codes)
            begin = run.offset + first * run.layout.bytes
            out[begin : begin + raw.size] = raw.tobytes()
        offset += run.count * run.layout.plane_bytes


def _spread(outside: bytes, found: list[Run], out: bytearray) -> None:
    """Put the bytes outside of runs where they belong."""
    used = position = 0
    for run in found:
        size = run.offset - position
        out[position : run.offset] = outside[used : used + size]
        used += size
        position = run.offset + run.length
    out[position:] = outside[used:]
