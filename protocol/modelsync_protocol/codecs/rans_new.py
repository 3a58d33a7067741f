"""Encoding 5: tensors without a counterpart, exponents and leading mantissa bits as rANS symbols. No I/O here."""

from __future__ import annotations

from modelsync_protocol.codecs import tensor_frame
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.codecs.rans_delta import opaque


class RansNew:
    """As encoding 4, but leans on no base: it stands in packs."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding; without knowledge of tensors all of `target` is one gap between them."""
        return opaque(target, b"", prefix)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes | bytearray:
        """See codecs.port.Encoding; a payload that leans on a base is malformed."""
        return tensor_frame.decode(payload, length, b"", prefix, tables)
