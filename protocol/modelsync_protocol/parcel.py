"""The parcel: a trust bundle, and the small objects that its reader asks for next (FORMAT.md §12.2). No I/O here.

A parcel proves nothing, as the bundle and the objects in it prove nothing by themselves: it only saves their requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from modelsync_protocol import caps, trust
from modelsync_protocol.codecs import zstd
from modelsync_protocol.errors import FormatError
from modelsync_protocol.wire import Reader, write_varint

FORMAT = 1

_MARK_BYTES = 4
_MAX_OBJECTS = 16


class _Kind(IntEnum):
    UPDATE = 1
    MANIFEST = 2
    PACK = 3
    TARGETS = 4
    NEWER_UPDATE = 5
    NEWER_OFFERS = 6


_PATHS = {
    _Kind.UPDATE: re.compile(r"updates/([0-9a-f]{8})[0-9a-f]{56}/[0-9a-f]{64}\.v1"),
    _Kind.NEWER_UPDATE: re.compile(r"updates/([0-9a-f]{8})[0-9a-f]{56}/[0-9a-f]{64}\.v2"),
    _Kind.MANIFEST: re.compile(r"manifests/([0-9a-f]{8})[0-9a-f]{56}"),
    _Kind.PACK: re.compile(r"packs/([0-9a-f]{8})[0-9a-f]{56}"),
    _Kind.TARGETS: re.compile(r"metadata/([0-9]{1,9})\.(?:[a-z0-9_-]{1,63}\.)?targets\.json"),
}

_OFFERS = (int(_Kind.NEWER_OFFERS), bytes(_MARK_BYTES))

Key = tuple[int, bytes]
"""How a parcel names an object: its kind, and four bytes of its target's or own digest, or of its metadata version."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A model's `bundle` (its bytes), and objects by their short names, which `get` finds by their store path."""

    bundle: bytes
    objects: Mapping[Key, bytes]

    def get(self, path: str) -> bytes | None:
        """The object at a store path, if it is in the parcel. A parcel is for one base, and so are its updates."""
        key = _key(path)
        return None if key is None else self.objects.get(key)

    @property
    def newer_offers(self) -> bytes:
        """What updates of newer formats cost, as the section of offers says it (FORMAT.md §12.4); empty if none."""
        return self.objects.get(_OFFERS, b"")


def prefix(key: Key, chain: str | None = None) -> str:
    """What the store path begins with of the object that a parcel names so; "" for a kind that is not known.

    `chain`: the model if it has a chain of its own, whose targets metadata a parcel then holds.
    """
    kind, mark = key
    folders = {
        _Kind.UPDATE: "updates/",
        _Kind.NEWER_UPDATE: "updates/",
        _Kind.MANIFEST: "manifests/",
        _Kind.PACK: "packs/",
    }
    if kind == _Kind.TARGETS:
        return trust.metadata_object(trust.chain_role("targets", chain), int.from_bytes(mark))
    return f"{folders[_Kind(kind)]}{mark.hex()}" if kind in folders else ""


def encode(bundle: bytes, objects: Mapping[str, bytes], newer_offers: bytes = b"") -> bytes:
    """Return the parcel's bytes; `objects` by store path. ValueError for what a parcel can't hold."""
    keyed = {key: data for path, data in objects.items() if (key := _key(path)) is not None}
    if len(keyed) != len(objects) or len(keyed) > _MAX_OBJECTS:
        raise ValueError("a parcel can't hold these objects")
    if newer_offers:
        keyed[_OFFERS] = newer_offers
    out = bytearray([FORMAT])
    write_varint(out, len(bundle))
    out += bundle
    write_varint(out, len(keyed))
    for (kind, mark), data in sorted(keyed.items()):
        write_varint(out, kind)
        out += mark
        section = _folded(data) if kind == _Kind.TARGETS else data
        write_varint(out, len(section))
        out += section
    return bytes(out)


def decode(data: bytes) -> Parcel:
    """Read an object; FormatError on anything but a whole parcel of a known format."""
    if len(data) > caps.MAX_BUNDLE_BYTES:
        raise FormatError(f"the parcel has {len(data)} bytes; the limit is {caps.MAX_BUNDLE_BYTES}.")
    reader = Reader(data, "the parcel")
    if (version := reader.varint(127)) != FORMAT:
        raise FormatError(f"the parcel has format {version}; this program reads {FORMAT}: update it.")
    bundle = bytes(reader.take(reader.varint(caps.MAX_BUNDLE_BYTES)))
    objects: dict[Key, bytes] = {}
    last: Key = (0, b"")
    for _ in range(reader.varint(_MAX_OBJECTS)):
        named = (reader.varint(127), bytes(reader.take(_MARK_BYTES)))
        if named <= last:
            raise FormatError("the parcel does not list its objects in ascending order.")
        last = named
        section = bytes(reader.take(reader.varint(caps.MAX_BUNDLE_BYTES)))
        objects[named] = _unfolded(section) if named[0] == _Kind.TARGETS else section
    reader.end()
    return Parcel(bundle, objects)


def _key(path: str) -> Key | None:
    for kind, pattern in _PATHS.items():
        if found := pattern.fullmatch(path):
            mark = int(found[1]).to_bytes(_MARK_BYTES) if kind == _Kind.TARGETS else bytes.fromhex(found[1])
            return kind, mark
    return None


def _folded(document: bytes) -> bytes:
    """Metadata are the only objects that are not compressed by themselves."""
    out = bytearray()
    write_varint(out, len(document))
    return bytes(out) + zstd.compress(document, b"")


def _unfolded(section: bytes) -> bytes:
    reader = Reader(section, "the parcel")
    size = reader.varint(caps.MAX_BUNDLE_BYTES)
    return zstd.decompress(section[reader.offset :], size, b"")
