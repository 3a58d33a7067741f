"""Where the bytes of an update object go: which range of the target pays how many, in which encodings. Reads only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from modelsync_protocol import codecs, names
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Op
from modelsync_protocol.plain.view import View
from modelsync_server.store import Store
from modelsync_server.store.published import read_header, sizes_by_version

_NAMES = {
    codecs.COPY: "copy",
    codecs.ZSTD: "zstd",
    codecs.ZSTD_PATCH: "zstd patch",
    codecs.SUBTRACT: "subtract",
    codecs.RANS_DELTA: "rANS delta",
    codecs.RANS_NEW: "rANS new",
    codecs.LOW_RANK: "low rank",
    codecs.TREE_COLUMNS: "tree columns",
    codecs.TRANSPOSE: "transpose",
    codecs.BLOCKS: "blocks",
    codecs.RECORDS: "records",
    codecs.STORED: "stored",
}


def encoding_name(encoding: int) -> str:
    """An encoding as people are told of it (FORMAT.md §6)."""
    return _NAMES.get(encoding, f"encoding {encoding}")


@dataclass(frozen=True, slots=True)
class UpdateBytes:
    """An update's operations with where each begins; `header_bytes` is all of the object but payloads.

    Operations tile the target's stream, or its plain view if there is one.
    """

    header_bytes: int
    starts: tuple[int, ...]
    operations: tuple[Op, ...]
    view: View | None = None
    """The target's plain view, if operations run between views."""

    def of(self, offset: int, length: int) -> tuple[int, tuple[str, ...]]:
        """Payload bytes that a range of the target's stream costs, and the encodings that it is made with.

        A frame that reaches over the range's ends counts with its share, so that neighbours add up. So does a packed
        member, whose bytes are spread evenly over it.
        """
        shares = self.by_encoding(offset, length)
        return sum(shares.values()), tuple(shares)

    def by_encoding(self, offset: int, length: int) -> dict[str, int]:
        """Payload bytes of a range of the target's stream by encoding, in the order in which they come."""
        found: dict[str, int] = {}
        for begin, end in self._laid_out(offset, offset + length):
            for name, cost in self.laid_out_by_encoding(begin, end - begin).items():
                found[name] = found.get(name, 0) + cost
        return found

    def laid_out_by_encoding(self, offset: int, length: int) -> dict[str, int]:
        """As `by_encoding`, of a range of what the operations tile."""
        end = offset + length
        found: dict[str, int] = {}
        position = max(bisect_right(self.starts, offset) - 1, 0)
        while length and position < len(self.starts) and self.starts[position] < end:
            op, start = self.operations[position], self.starts[position]
            first, last = max(offset, start) - start, min(end, start + op.length) - start
            if last > first:
                name = encoding_name(codecs.COPY if isinstance(op, Copy) else op.encoding)
                # Rounded at each place, not for each range: then the parts of a frame add up to all of it.
                paid = 0 if isinstance(op, Copy) else op.payload_length
                cost = paid * last // op.length - paid * first // op.length
                found[name] = found.get(name, 0) + cost
            position += 1
        return found

    def _laid_out(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where a range of the stream lies in what the operations tile: (begin, end) of each piece."""
        if self.view is None:
            yield begin, end
            return
        view = self.view
        position = packed = 0  # in the stream, and how many bytes of members come before
        for number in sorted(range(len(view.members)), key=lambda which: view.members[which].offset):
            member = view.members[number]
            yield from _within(begin, end, position, member.offset, -packed)
            first, last = (min(max(edge - member.offset, 0), member.packed) for edge in (begin, end))
            if last > first:
                place = view.rest_bytes + view.member_places[number]
                yield place + member.plain * first // member.packed, place + member.plain * last // member.packed
            position = member.offset + member.packed
            packed += member.packed
        yield from _within(begin, end, position, view.stream_size, -packed)


def _within(begin: int, end: int, low: int, high: int, shift: int) -> Iterator[tuple[int, int]]:
    begin, end = max(begin, low), min(end, high)
    if begin < end:
        yield begin + shift, end + shift


async def read_update_bytes(store: Store, base: Manifest, target: str) -> UpdateBytes:
    """Read the smallest update object from `base` to the manifest digest `target`; ObjectNotFound, FormatError."""
    sizes = await sizes_by_version(store, target)
    made = [(found[base.digest], version) for version, found in sizes.items() if base.digest in found]
    path = names.update_object(target, base.digest, min(made, default=(0, 1))[1])
    preamble, header = await read_header(store, path, base)
    starts, position = [], 0
    for op in header.operations:
        starts.append(position)
        position += op.length
    view = None if header.views is None else header.views.target
    return UpdateBytes(preamble.payload_offset, tuple(starts), tuple(header.operations), view)
