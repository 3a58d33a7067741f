"""Golden vectors: objects of every released format version, which every later program must read bit by bit."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path

import pytest

from modelsync_protocol import bundle, codecs, index, manifest, offers, update
from modelsync_protocol.ops import Copy, Frame, Op

GOLDEN = Path(__file__).parent / "golden"
V1 = GOLDEN / "v1"


@pytest.mark.parametrize(
    ("version", "digest"), [("v1", "45a5e455e6ae8181688ce920669dfd1bd09877d4f9401a7e472e0d7624168d81")]
)
def test_the_committed_vectors_never_change(version: str, digest: str) -> None:
    sums = (GOLDEN / version / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == digest
    listed = {name: said for said, name in (line.split("  ") for line in sums.decode().splitlines())}
    found = {path.name for path in (GOLDEN / version).iterdir()} - {"SHA256SUMS"}
    assert found == set(listed)
    for name in found:
        assert hashlib.sha256((GOLDEN / version / name).read_bytes()).hexdigest() == listed[name], name


def read(name: str) -> bytes:
    return (V1 / name).read_bytes()


def build(operations: tuple[Op, ...], payloads: bytes, base: bytes, tables: bytes) -> bytes:
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


def test_manifests_of_v1() -> None:
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


def test_manifest_object_and_pack_of_v1() -> None:
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


def test_update_of_v1_with_copies_a_zstd_frame_and_a_patch_frame() -> None:
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


def test_bundle_and_offers_of_v1() -> None:
    found = bundle.decode(read("bundle"))
    assert (found.root_version, found.targets_version, found.offers) == (2, 300, read("offers"))
    assert found.role.endswith(
        b'"targets":{"m/9":{"hashes":{"sha256":"' + b"cd" * 32 + b'"},"length":9}},"version":7}}'
    )
    listed = offers.decode(found.offers)
    assert {version: offer.install_bytes for version, offer in listed.items()} == {9: 1_204_848, 8: 1_204_000, 2: 5}
    assert listed[9].update_bytes("00000001" + "f" * 56) == 87
    assert listed[2].update_bytes("0" * 64) is None


def test_the_script_still_makes_what_readers_of_v1_understand() -> None:
    """Its zstd may choose other bytes; what they stand for is the same."""
    made = runpy.run_path(str(GOLDEN / "make.py"))
    assert made["target"]().encoded == read("target.manifest.json")
    assert made["TARGET_STREAM"] == read("target.stream")
    assert offers.decode(offers.encode(made["OFFERS"])) == offers.decode(read("offers"))
