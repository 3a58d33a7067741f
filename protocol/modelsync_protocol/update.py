"""The update object: everything that a device on one base lacks, header first, then payloads in order. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from modelsync_protocol import caps, codecs
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest, complete
from modelsync_protocol.ops import Frame, Op, read_ops, write_ops
from modelsync_protocol.plain import section
from modelsync_protocol.plain.section import Views
from modelsync_protocol.wire import Reader, Truncated, write_varint

VIEWS = 2
"""The first version of the format whose header says between which plain views the operations run."""

MAGIC = b"MSU\x01"
"""The last byte is the version of the format: here the first."""

PREAMBLE_BYTES = len(MAGIC) + 2 * 8
"""No preamble is longer: magic and two varints."""


@dataclass(frozen=True, slots=True)
class Preamble:
    """Sizes in bytes: where the header begins, its length there and decoded; the format's version."""

    offset: int
    stored: int
    decoded: int
    version: int = 1

    @property
    def payload_offset(self) -> int:
        """Where the first payload begins in the object."""
        return self.offset + self.stored


@dataclass(frozen=True, slots=True)
class Update:
    """An update's header: the target's skeleton (its manifest without digests), and the operations on the base.

    `tables` are what its frames share (codecs.port.Tables).
    """

    target: Manifest
    operations: Sequence[Op]
    tables: bytes = b""
    views: Views | None = None
    """The plain views that the operations run between; None: between the streams."""

    @property
    def payload_bytes(self) -> int:
        """Sum of all payloads, bytes."""
        return sum(op.payload_length for op in self.operations if isinstance(op, Frame))


def version_of(operations: Sequence[Op], views: Views | None = None) -> int:
    """The lowest version of the format that holds these operations."""
    encodings = {op.encoding for op in operations if isinstance(op, Frame)}
    return (
        max(1 if views is None else 2, *map(codecs.first_version, encodings)) if encodings else 1 + (views is not None)
    )


def encode_header(
    base: Manifest, target: Manifest, operations: Sequence[Op], tables: bytes = b"", views: Views | None = None
) -> bytes:
    """Return preamble and header; the payloads follow it in the order of the operations.

    The object is of the lowest version that holds what it is given (`version_of`).
    """
    version = version_of(operations, views)
    skeleton = target.skeleton
    packed = _packed(skeleton, base.skeleton)
    header = bytearray()
    write_varint(header, len(skeleton))
    write_varint(header, len(packed))
    header += packed
    write_varint(header, len(tables))
    header += tables
    if version > 1:
        section.write(header, views)
    write_ops(header, operations)
    squeezed = zstd.compress(bytes(header), b"")
    stored = squeezed if len(squeezed) < len(header) else bytes(header)
    out = bytearray(MAGIC[:-1])
    out.append(version)
    write_varint(out, len(stored))
    write_varint(out, len(header))
    return bytes(out) + stored


@lru_cache(maxsize=1)
def _packed(skeleton: bytes, base: bytes) -> bytes:
    """A target's skeleton on its base's: the same in each object that is made of the pair. Large ones are mostly equal,
    so that another tuning would spare nothing."""
    return zstd.compress(skeleton, base, 0)


def decode_preamble(data: bytes | memoryview) -> Preamble | None:
    """Read the first bytes of an update; None if more are needed (PREAMBLE_BYTES always suffice)."""
    reader = Reader(data, "the update")
    try:
        reader.expect(MAGIC[:-1])
        version = reader.take(1)[0]
        if not 1 <= version <= codecs.NEWEST_VERSION:
            raise FormatError(f"the update is of format {version}, which is not known here; update this program.")
        stored = reader.varint(caps.MAX_UPDATE_HEADER_BYTES)
        decoded = reader.varint(caps.MAX_UPDATE_HEADER_BYTES)
    except Truncated:
        if len(data) >= PREAMBLE_BYTES:
            raise
        return None
    if stored > decoded:
        raise FormatError("the update's header is longer packed than unpacked.")
    return Preamble(reader.offset, stored, decoded, version)


def decode_header(preamble: Preamble, stored: bytes | memoryview, base: Manifest) -> Update:
    """Read the `preamble.stored` bytes of the header, for the given base; raise FormatError on anything odd.

    The target has no digests yet (`Manifest.complete` gives them once its bytes are known).
    """
    header = bytes(stored)
    if len(header) != preamble.stored:
        raise FormatError("the update's header is cut short.")
    if preamble.stored < preamble.decoded:
        header = zstd.decompress(header, preamble.decoded, b"")
    reader = Reader(header, "the update's header")
    size = reader.varint(caps.MAX_MANIFEST_BYTES)
    packed = reader.take(reader.varint(caps.MAX_MANIFEST_BYTES))
    target = complete(zstd.decompress(bytes(packed), size, base.skeleton), None)
    tables = bytes(reader.take(reader.varint(caps.MAX_TABLES_BYTES)))
    views = section.read(reader, base.size, target.size) if preamble.version > 1 else None
    if views is None:
        operations = read_ops(reader, target=target, base_size=base.size, version=preamble.version)
    else:
        operations = read_ops(reader, target=views.target, base_size=views.base.size, version=preamble.version)
    reader.end()
    return Update(target, operations, tables, views if views is not None and views.members else None)
