"""Decodes every golden vector and compares bit by bit. Needs no pytest: it also runs on 32-bit Arm (tests/arm).

Every folder of vectors has its checks here; `checks` names them all, and whoever runs vectors runs that list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelsync_protocol import bundle, codecs, index, manifest, names, offers, parcel, release_record, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plain import recipes, reference

GOLDEN = Path(__file__).parent
V1 = GOLDEN / "v1"
FRAMES = {
    "blocks": codecs.BLOCKS,
    "boosted": codecs.TREE_COLUMNS,
    "codecs": None,
    "low_rank": codecs.LOW_RANK,
    "trees": codecs.TREE_COLUMNS,
}
"""Folders of single frames, and the encoding of all in them if there is but one."""

PARCEL = GOLDEN / "parcels" / "parcel"
RELEASE = GOLDEN / "releases" / "record"
VIEWS = GOLDEN / "views"
REPEATS = GOLDEN / "repeats"
RECORDS = GOLDEN / "records"
SEALS = {
    "blocks": "c8db5bd33d277871dfddee079516526894d09a0995f909d7f01b259a65d5855b",
    "boosted": "26ba3ac7f4a4f4a3d3c83430c66bd682fa9a67a8d3c688a627b1f2efd3f892f3",
    "codecs": "be66fdb2511f3e9af985ae9d20775604998c1955b400bd6d5f5bccfa00455310",
    "low_rank": "1b136a3422a503d9870f5a5333415abec5ae1ff0a8322dacce1cc9c82148beb5",
    "parcels": "ae5e8a21661b92a3919911790dcea3cd3045ef3f69c6ac8a18c26c77f308db31",
    "records": "b79a20b7e8967831cbf6505e3c702751779416e100c1e700d223b3541859cbca",
    "repeats": "360e095437627ad6f117e8c146b8c8d7837516ece0e4cc75ef38ae3515ac848f",
    "releases": "604512974c7fbba04162029785de34ff9e9b259f0c948a4b5c5e84629f588de8",
    "views": "13443dc75a514dfb14313517b94e095d8edb17050e106729244bfc23c5adf4a7",
    "trees": "e83edd3176bfd68833f97b2791c322c3569396334e2e820fe9fabf3a1371d591",
    "v1": "45a5e455e6ae8181688ce920669dfd1bd09877d4f9401a7e472e0d7624168d81",
}
"""SHA-256 of the SHA256SUMS of each released folder: vectors never change."""

Check = Callable[[], None]


def checks() -> list[tuple[str, Check]]:
    """Every check, with its name; a check raises if a vector does not decode to what it must."""
    found: list[tuple[str, Check]] = [
        (f"vectors of {version} are as released", partial(sealed, version)) for version in SEALS
    ]
    found += [
        ("manifests of v1", manifests_of_v1),
        ("manifest object and pack of v1", manifest_object_and_pack_of_v1),
        ("update of v1 with copies, a zstd frame and a patch frame", update_of_v1),
        ("bundle and offers of v1", bundle_and_offers_of_v1),
        ("parcel of format 1", parcel_of_format_1),
        ("release record of format 1", release_record_of_format_1),
        ("update through plain views, version 2", update_through_views),
        ("update whose operations end inside chunks, version 2", partial(update_between_streams, REPEATS)),
        ("update of records and stored frames, version 2", partial(update_between_streams, RECORDS)),
        ("zlib is the one that plain views need", zlib_is_the_reference),
    ]
    found += [(named(vector), partial(frame, vector)) for vector in frames()]
    return found


def damage_checks() -> list[tuple[str, Check]]:
    """Frames damaged in many ways: what word sizes may change. Few of blocks, none of trees: they take minutes."""
    listed = frames()
    blocks = [vector for vector in listed if vector["encoding"] == codecs.BLOCKS][::11]
    others = [vector for vector in listed if vector["encoding"] not in (codecs.BLOCKS, codecs.TREE_COLUMNS)]
    return [(f"{named(vector)}, damaged", partial(damaged_frame, vector)) for vector in (*blocks, *others)]


def frames() -> list[dict[str, Any]]:
    """The vectors of single frames: name, encoding, decoded length in bytes, SHA-256 of what they decode to."""
    listed: list[dict[str, Any]] = []
    for folder, encoding in FRAMES.items():
        found = json.loads((GOLDEN / folder / "vectors.json").read_text(encoding="utf-8"))
        listed += [{"encoding": encoding, **vector, "folder": folder} for vector in found]
    return listed


def named(vector: dict[str, Any]) -> str:
    """What a report calls a frame."""
    return f"{vector['name']} in encoding {vector['encoding']}"


def sealed(version: str) -> None:
    """The folder holds exactly the files that were released."""
    sums = (GOLDEN / version / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == SEALS[version]
    listed = {name: said for said, name in (line.split("  ") for line in sums.decode().splitlines())}
    found = {path.name for path in (GOLDEN / version).iterdir()} - {"SHA256SUMS"}
    assert found == set(listed)
    for name in found:
        assert hashlib.sha256((GOLDEN / version / name).read_bytes()).hexdigest() == listed[name], name


def read(name: str) -> bytes:
    """A file of v1."""
    return (V1 / name).read_bytes()


def build(operations: Sequence[Op], payloads: bytes, base: bytes, tables: bytes) -> bytes:
    """Carry out operations as FORMAT.md says, payloads one after the other."""
    stream, place = bytearray(), 0
    for op in operations:
        if isinstance(op, Copy):
            stream += (stream if op.own else base)[op.offset : op.offset + op.length]
            continue
        payload = payloads[place : place + op.payload_length]
        place += op.payload_length
        lean = base[op.base_offset : op.base_offset + op.base_length]
        prefix = bytes(stream[len(stream) - op.prefix :])
        stream += codecs.decode(op.encoding, payload, op.length, lean, prefix, tables)
    assert place == len(payloads)
    return bytes(stream)


def manifests_of_v1() -> None:
    """Entries of every kind, and the chunks' digests."""
    target = manifest.decode(read("target.manifest.json"))
    assert [type(entry).__name__ for entry in target.entries] == [
        "EmptyDirectory",
        "RegularFile",
        "RegularFile",
        "Link",
        "RegularFile",
        "RegularFile",
    ]
    assert target.files[3].mode == 0o755
    assert target.probe == "labels.txt"
    assert target.requires == {"model": "model.bin", "türkis": "€"}
    stream = read("target.stream")
    for offset, size, digest in target.chunks():
        assert hashlib.sha256(stream[offset : offset + size]).hexdigest() == digest


def manifest_object_and_pack_of_v1() -> None:
    """A first install."""
    document = read("target.manifest.json")
    found, listed = index.decode_object(read("target.manifest-object"), hashlib.sha256(document).hexdigest())
    assert found.encoded == document
    pack = read("target.pack")
    assert listed.packs == ((hashlib.sha256(pack).hexdigest(), len(pack)),)
    frames = [op for op in listed.operations if isinstance(op, Frame)]
    payloads = b"".join(
        pack[place.offset : place.offset + op.payload_length] for op, place in zip(frames, listed.places, strict=True)
    )
    assert build(listed.operations, payloads, b"", listed.tables) == read("target.stream")


def update_of_v1() -> None:
    """Copies of base and target, a zstd frame, and one that leans on base and prefix."""
    base = manifest.decode(read("base.manifest.json"))
    target = manifest.decode(read("target.manifest.json"))
    data = read("target.update")
    preamble = update.decode_preamble(data)
    assert preamble is not None
    header = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    kinds = [("own" if op.own else "base") if isinstance(op, Copy) else op.encoding for op in header.operations]
    assert kinds == ["base", codecs.ZSTD_PATCH, "base", codecs.ZSTD, "own", "own"]
    patch = header.operations[1]
    assert isinstance(patch, Frame) and patch.base_length and patch.prefix
    assert header.target.skeleton == target.skeleton
    stream = build(header.operations, data[preamble.payload_offset :], read("base.stream"), header.tables)
    assert stream == read("target.stream")


def bundle_and_offers_of_v1() -> None:
    """What a device reads first."""
    found = bundle.decode(read("bundle"))
    assert (found.root_version, found.targets_version, found.offers) == (2, 300, read("offers"))
    assert found.role.endswith(
        b'"targets":{"m/9":{"hashes":{"sha256":"' + b"cd" * 32 + b'"},"length":9}},"version":7}}'
    )
    listed = offers.decode(found.offers)
    assert {version: offer.install_bytes for version, offer in listed.items()} == {9: 1_204_848, 8: 1_204_000, 2: 5}
    assert listed[9].update_bytes("00000001" + "f" * 56) == 87
    assert listed[2].update_bytes("0" * 64) is None


def release_record_of_format_1() -> None:
    """Every kind of value, numbers with the type and the digits that they had; and it is written the same again."""
    data = RELEASE.read_bytes()
    found = release_record.decode(data, hashlib.sha256(data).hexdigest())
    assert found.published.isoformat() == "2026-11-27T09:00:00+00:00"
    assert found.metadata == {
        "author": "Ada Lovelace <ada@example.com>",
        "commit": "4f1c2d9",
        "dirty": True,
        "licence": "Apache-2.0",
        "metrics": {"auc": 0.93, "rows": 12, "seed": 12345678901234567890, "tiny": -1.5e-300},
        "tags": ["Wärme", 'a"b', None],
    }
    assert release_record.encode(found) == data


def parcel_of_format_1() -> None:
    """A bundle and one object of each kind."""
    found = parcel.decode(PARCEL.read_bytes())
    assert found.bundle == read("bundle")
    base, target = (hashlib.sha256(read(f"{name}.manifest.json")).hexdigest() for name in ("base", "target"))
    assert found.get(names.update_object(target, base)) == read("target.update")
    assert found.get(names.manifest_object(target)) == read("target.manifest-object")
    assert found.get(names.pack_object(hashlib.sha256(read("target.pack")).hexdigest())) == read("target.pack")
    targets = json.loads(found.get("metadata/300.targets.json") or b"")
    assert targets["signed"] == {"_type": "targets", "role": "targets", "version": 300}
    assert found.get("metadata/299.targets.json") is None and found.get(names.manifest_object(base)) is None


def update_through_views() -> None:
    """A member of each wrapping, shuffled, flushed, with a small window; the target is packed to its very bytes."""
    base, target = (manifest.decode((VIEWS / f"{name}.manifest.json").read_bytes()) for name in ("base", "target"))
    data = (VIEWS / "target.update").read_bytes()
    preamble = update.decode_preamble(data)
    assert preamble is not None and preamble.version == update.VIEWS
    header = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    views = header.views
    assert views is not None and len({member.recipe for member in views.target.members}) == 5
    old = (VIEWS / "base.stream").read_bytes()
    pieces = views.base.pieces(0, views.base.rest_bytes)
    view = b"".join(old[piece.offset : piece.offset + piece.length] for piece in pieces)
    for member in views.base.members:
        packed = old[member.offset : member.offset + member.packed]
        view += b"".join(recipes.unpack(member.recipe, recipes.blocks(packed), member.plain))
    made = build(header.operations, data[preamble.payload_offset :], view, header.tables)
    stream = bytearray(target.size)
    for piece in views.target.pieces(0, views.target.size):
        content, made = made[: piece.length], made[piece.length :]
        if piece.member is None:
            stream[piece.offset : piece.offset + piece.length] = content
        else:
            member = views.target.members[piece.member]
            packed = b"".join(recipes.pack(member.recipe, recipes.blocks(content), member.packed))
            stream[member.offset : member.offset + member.packed] = packed
    for offset, size, digest in target.chunks():
        assert hashlib.sha256(stream[offset : offset + size]).hexdigest() == digest


def update_between_streams(folder: Path) -> None:
    """Operations whose ends are no chunks'; the target comes out whole."""
    base, target = (manifest.decode((folder / f"{name}.manifest.json").read_bytes()) for name in ("base", "target"))
    data = (folder / "target.update").read_bytes()
    preamble = update.decode_preamble(data)
    assert preamble is not None and preamble.version == update.VIEWS
    header = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    assert header.views is None
    made = build(
        header.operations, data[preamble.payload_offset :], (folder / "base.stream").read_bytes(), header.tables
    )
    for offset, size, digest in target.chunks():
        assert hashlib.sha256(made[offset : offset + size]).hexdigest() == digest


def zlib_is_the_reference() -> None:
    """Whoever runs this packs members to the publisher's bytes."""
    assert reference.is_reference()


def part(vector: dict[str, Any], name: str) -> bytes:
    """A file of a frame's vector; empty if the frame needs none."""
    path = GOLDEN / vector["folder"] / f"{vector['name']}.{name}"
    return path.read_bytes() if path.exists() else b""


def frame(vector: dict[str, Any]) -> None:
    """One frame, given its base and its header's tables."""
    data = codecs.decode(
        vector["encoding"], part(vector, "payload"), vector["length"], part(vector, "base"), b"", part(vector, "tables")
    )
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]


def damaged_frame(vector: dict[str, Any]) -> None:
    """A flipped bit gives the declared length or FormatError, a cut payload FormatError, whatever the word size."""
    base = part(vector, "base")
    whole = (part(vector, "payload"), part(vector, "tables"))
    for damaged in (0, 1):
        for place in range(0, len(whole[damaged]), max(1, len(whole[damaged]) // 29)):
            parts = [bytearray(data) for data in whole]
            parts[damaged][place] ^= 1 << (place % 8)
            payload, tables = map(bytes, parts)
            try:
                assert (
                    len(codecs.decode(vector["encoding"], payload, vector["length"], base, b"", tables))
                    == vector["length"]
                )
            except FormatError:
                continue
    payload, tables = whole
    for size in range(0, len(payload), max(1, len(payload) // 13)):
        try:
            codecs.decode(vector["encoding"], payload[:size], vector["length"], base, b"", tables)
        except FormatError:
            continue
        raise AssertionError(f"cut to {size} bytes it still decodes")
