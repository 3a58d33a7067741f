"""Encoding 4: tensors as rANS-coded differences from their counterparts in the base range. No I/O here."""

from __future__ import annotations

from modelsync_protocol.codecs import segments, tensor_frame, zstd
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.codecs.segments import Gap, Head
from modelsync_protocol.wire import write_varint


class RansDelta:
    """Payloads with tensors in them are written by the publisher, which knows where tensors lie."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; without knowledge of tensors all of `target` is one gap between them."""
        return opaque(target, base, prefix)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes | bytearray:
        """See codecs.port.Encoding."""
        return tensor_frame.decode(payload, length, base, prefix, tables)


def opaque(target: bytes, base: bytes, prefix: bytes) -> bytes:
    """The payload that holds no tensor."""
    gaps = (Gap(len(target)),) if target else ()
    out = bytearray(segments.write(Head(gaps, 0, 0)))
    if gaps:
        packed = zstd.compress(target, tensor_frame.skeleton(gaps, base) + prefix)
        write_varint(out, len(packed))
        out += packed
    return bytes(out)
