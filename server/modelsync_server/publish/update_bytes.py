"""Where the bytes of an update object go: which range of the target pays how many, in which encodings. Reads only."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from modelsync_protocol import codecs, names, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Op
from modelsync_server.store import Store
from modelsync_server.store.published import sizes_by_version

_NAMES = {
    codecs.COPY: "copy",
    codecs.ZSTD: "zstd",
    codecs.ZSTD_PATCH: "zstd patch",
    codecs.SUBTRACT: "subtract",
    codecs.RANS_DELTA: "rANS delta",
    codecs.RANS_NEW: "rANS new",
    codecs.TRANSPOSE: "transpose",
}


def encoding_name(encoding: int) -> str:
    """An encoding as people are told of it (FORMAT.md §6)."""
    return _NAMES.get(encoding, f"encoding {encoding}")


@dataclass(frozen=True, slots=True)
class UpdateBytes:
    """An update's operations with where each begins in the target's stream; `header_bytes` is all but payloads."""

    header_bytes: int
    starts: tuple[int, ...]
    operations: tuple[Op, ...]

    def of(self, offset: int, length: int) -> tuple[int, tuple[str, ...]]:
        """Payload bytes that a range of the target's stream costs, and the encodings that it is made with.

        A frame that reaches over the range's ends counts with its share, so that neighbours add up.
        """
        end = offset + length
        cost = 0.0
        encodings: dict[str, None] = {}
        position = max(bisect_right(self.starts, offset) - 1, 0)
        while length and position < len(self.starts) and self.starts[position] < end:
            op, start = self.operations[position], self.starts[position]
            covered = min(end, start + op.length) - max(offset, start)
            if covered > 0:
                encoding = codecs.COPY if isinstance(op, Copy) else op.encoding
                encodings[encoding_name(encoding)] = None
                cost += 0 if isinstance(op, Copy) else op.payload_length * covered / op.length
            position += 1
        return round(cost), tuple(encodings)


async def read_update_bytes(store: Store, base: Manifest, target: str) -> UpdateBytes:
    """Read the smallest update object from `base` to the manifest digest `target`; ObjectNotFound, FormatError."""
    sizes = await sizes_by_version(store, target)
    made = [(found[base.digest], version) for version, found in sizes.items() if base.digest in found]
    path = names.update_object(target, base.digest, min(made, default=(0, 1))[1])
    data = await store.get(path)
    preamble = update.decode_preamble(data)
    if preamble is None:
        raise FormatError(f"{path} is cut short.")
    header = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    starts, position = [], 0
    for op in header.operations:
        starts.append(position)
        position += op.length
    return UpdateBytes(preamble.payload_offset, tuple(starts), header.operations)
