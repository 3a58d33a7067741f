"""The index: for each frame of an artifact its pack and place; and the object that carries manifest and index.

A `manifests/` object is one zstd frame with the manifest's canonical JSON, then one zstd skippable frame with the
index: `zstd -d` of the object gives the manifest, and one request brings both. No I/O here.
"""

from __future__ import annotations

from dataclasses import dataclass

import zstandard

from modelsync_protocol import canonical, caps
from modelsync_protocol import manifest as manifests
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame, Op, read_ops, write_ops
from modelsync_protocol.wire import Reader, write_signed, write_varint

_SKIPPABLE = (0x184D2A50).to_bytes(4, "little")
_MAGIC = b"MSI\x01"
_LEVEL = 16
_MAX_PACKS = 100_000
_BITE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame's payload lies: pack number (into `Index.packs`) and byte offset in that pack."""

    pack: int
    offset: int


@dataclass(frozen=True, slots=True)
class Index:
    """The packs (digest, size in bytes), the operations that tile the stream, and each frame's place, in order."""

    packs: tuple[tuple[str, int], ...]
    operations: tuple[Op, ...]
    places: tuple[Place, ...]
    tables: bytes = b""
    """What its frames share (codecs.port.Tables)."""

    def __post_init__(self) -> None:
        frames = [op for op in self.operations if isinstance(op, Frame)]
        if len(frames) != len(self.places):
            raise FormatError("the index does not place each frame.")
        for frame, place in zip(frames, self.places, strict=True):
            if place.offset + frame.payload_length > self.packs[place.pack][1]:
                raise FormatError("the index places a frame beyond its pack.")


def encode_object(manifest: Manifest, index: Index) -> bytes:
    """Return the bytes of `manifests/<digest>`."""
    body = bytearray()
    write_varint(body, len(index.packs))
    for digest, size in index.packs:
        body += bytes.fromhex(digest)
        write_varint(body, size)
    write_varint(body, len(index.tables))
    body += index.tables
    write_ops(body, index.operations)
    expected = [0] * len(index.packs)
    frames = (op for op in index.operations if isinstance(op, Frame))
    for frame, place in zip(frames, index.places, strict=True):
        write_varint(body, place.pack)
        write_signed(body, place.offset - expected[place.pack])
        expected[place.pack] = place.offset + frame.payload_length
    section = bytearray(_MAGIC)
    write_varint(section, len(body))
    section += zstd.compress(bytes(body), b"")
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    front = compressor.compress(manifest.encoded)
    return front + _SKIPPABLE + len(section).to_bytes(4, "little") + bytes(section)


def decode_object(data: bytes, digest: str) -> tuple[Manifest, Index]:
    """Read `manifests/<digest>`; the manifest must have that digest, else FormatError.

    The index is unsigned: a hint, whose fruits are verified.
    """
    if len(data) > caps.MAX_MANIFEST_OBJECT_BYTES:
        raise FormatError(f"the manifest object has {len(data)} bytes; the limit is {caps.MAX_MANIFEST_OBJECT_BYTES}.")
    document, rest = _front(data)
    if canonical.digest(document) != digest:
        raise FormatError(f"the manifest {digest[:12]}… is damaged: its content has another digest.")
    manifest = manifests.decode(document)
    reader = Reader(rest, "the index")
    reader.expect(_SKIPPABLE)
    size = int.from_bytes(reader.take(4), "little")
    section = reader.take(size)
    reader.end()
    return manifest, _decode_index(section, manifest)


def _front(data: bytes) -> tuple[bytes, bytes]:
    """The decompressed first zstd frame (declared size checked before allocation), and what follows it."""
    document = bytearray()
    used = 0
    try:
        declared = zstandard.frame_content_size(data)
        if not 0 <= declared <= caps.MAX_MANIFEST_BYTES:
            raise FormatError("the manifest object does not declare an allowed size.")
        decompressor = zstandard.ZstdDecompressor(max_window_size=caps.MAX_MANIFEST_BYTES).decompressobj()
        while not decompressor.eof and len(document) <= declared and used < len(data):
            # Four bytes can become 128 KiB: small bites bound what a lying frame makes before it is noticed.
            document += decompressor.decompress(data[used : used + _BITE_BYTES])
            used += _BITE_BYTES
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"the manifest object is damaged: {error}.") from error
    if not decompressor.eof or len(document) != declared:
        raise FormatError("the manifest object is cut short, or has another size than it declares.")
    return bytes(document), decompressor.unused_data + data[used:]


def _decode_index(section: memoryview, manifest: Manifest) -> Index:
    reader = Reader(section, "the index")
    reader.expect(_MAGIC)
    size = reader.varint(caps.MAX_UPDATE_HEADER_BYTES)
    body = zstd.decompress(bytes(section[reader.offset :]), size, b"")
    reader = Reader(body, "the index")
    packs: list[tuple[str, int]] = []
    for _ in range(reader.varint(_MAX_PACKS)):
        digest = bytes(reader.take(32)).hex()
        packs.append((digest, reader.varint(caps.MAX_PACK_BYTES)))
    tables = bytes(reader.take(reader.varint(caps.MAX_TABLES_BYTES)))
    operations = read_ops(reader, target=manifest, base_size=0)
    expected = [0] * len(packs)
    places = []
    for op in operations:
        if isinstance(op, Frame):
            if not packs:
                raise FormatError("the index has frames and no pack.")
            pack = reader.varint(len(packs) - 1)
            offset = expected[pack] + reader.signed(caps.MAX_PACK_BYTES)
            if offset < 0:
                raise FormatError("the index places a frame before its pack.")
            places.append(Place(pack, offset))
            expected[pack] = offset + op.payload_length
    reader.end()
    return Index(tuple(packs), tuple(operations), tuple(places), tables)
