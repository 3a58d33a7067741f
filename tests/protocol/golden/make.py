"""Made the golden vectors of format 1. Run it only for a new format version, into a new folder: vectors never change.

`python tests/protocol/golden/make.py FOLDER` (the encoder's zstd may give other bytes than in v1; readers don't care).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from modelsync_protocol import bundle, codecs, index, offers, update
from modelsync_protocol.bundle import Bundle
from modelsync_protocol.index import Index, Place
from modelsync_protocol.manifest import EmptyDirectory, Link, Manifest, RegularFile
from modelsync_protocol.offers import Offer
from modelsync_protocol.ops import Copy, Frame, Op


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same everywhere: SHA-256 of `seed` and a counter."""
    blocks = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def regular(path: str, data: bytes, sizes: tuple[int, ...], mode: int = 0o644) -> RegularFile:
    """A file's entry, cut as told."""
    digests, position = [], 0
    for size in sizes:
        digests.append(hashlib.sha256(data[position : position + size]).hexdigest())
        position += size
    return RegularFile(path, mode, sizes, tuple(digests))


LABELS = b"cat\ndog\nheron\n" * 20
OLD = noise("old", 2000)
NEW = OLD[:700] + noise("new", 90) + OLD[800:]
TAIL = noise("tail", 300)

BASE_STREAM = LABELS + OLD
TARGET_STREAM = LABELS + NEW + TAIL + NEW[:600] + TAIL


def base() -> Manifest:
    """Labels and a model in three chunks."""
    return Manifest((regular("labels.txt", LABELS, (280,)), regular("model.bin", OLD, (600, 700, 700))))


def target() -> Manifest:
    """The model changed in its middle; entries of every kind."""
    scripts = TAIL + NEW[:600] + TAIL
    return Manifest(
        (
            EmptyDirectory("cache"),
            regular("empty", b"", ()),
            regular("labels.txt", LABELS, (280,)),
            Link("latest.bin", "model.bin"),
            regular("model.bin", NEW, (600, 690, 700)),
            regular("scripts/score.py", scripts, (300, 600, 300), 0o755),
        ),
        requires={"model": "model.bin", "türkis": "\u20ac"},
        probe="labels.txt",
    )


def frame(encoding: int, data: bytes, base: bytes = b"", prefix: bytes = b"", offset: int = 0) -> tuple[Frame, bytes]:
    """Encode one frame."""
    payload = codecs.ENCODINGS[encoding].encode(data, base, prefix)
    return Frame(len(data), encoding, len(payload), offset, len(base), len(prefix)), payload


def update_object() -> bytes:
    """Copies from base and target, a zstd frame, a patch frame with base range and prefix."""
    old, new = base(), target()
    at = len(LABELS)
    patch, patch_payload = frame(codecs.ZSTD_PATCH, NEW[600:1290], OLD[500:1400], NEW[400:600], at + 500)
    plain, plain_payload = frame(codecs.ZSTD, TAIL)
    end = at + len(NEW)
    operations: list[Op] = [
        Copy(at + 600, 0),
        patch,
        Copy(700, at + 1300),
        plain,
        Copy(600, at, own=True),
        Copy(300, end, own=True),
    ]
    return update.encode_header(old, new, operations) + patch_payload + plain_payload


def pack_and_index() -> tuple[bytes, Index]:
    """One pack with two frames, and its index with a copy."""
    at = len(LABELS)
    head, head_payload = frame(codecs.ZSTD, TARGET_STREAM[: at + 600])
    rest, rest_payload = frame(codecs.ZSTD_PATCH, NEW[600:] + TAIL, b"", NEW[:600])
    pack = head_payload + rest_payload
    operations: tuple[Op, ...] = (head, rest, Copy(600, at, own=True), Copy(300, at + len(NEW), own=True))
    packs = ((hashlib.sha256(pack).hexdigest(), len(pack)),)
    return pack, Index(packs, operations, (Place(0, 0), Place(0, len(head_payload))))


OFFERS = {9: Offer(1_204_848, {"00000001": 87, "fffffffe": 20_066}), 8: Offer(1_204_000), 2: Offer(5, {"89abcdef": 4})}


def bundle_object() -> bytes:
    """A bundle of documents that look like metadata."""
    head = (
        b'{"signatures":[{"keyid":"' + b"ab" * 32 + b'","sig":"' + b"0123456789abcdef" * 8 + b'"}],"signed":{"_type":'
    )
    return bundle.encode(
        Bundle(
            2,
            300,
            head + b'"timestamp","version":7}}',
            head + b'"snapshot","version":7}}',
            head + b'"targets","targets":{"m/9":{"hashes":{"sha256":"' + b"cd" * 32 + b'"},"length":9}},"version":7}}',
            offers.encode(OFFERS),
        )
    )


def main(folder: Path) -> None:
    """Write all vectors and their digests."""
    pack, found = pack_and_index()
    vectors = {
        "base.stream": BASE_STREAM,
        "target.stream": TARGET_STREAM,
        "base.manifest.json": base().encoded,
        "target.manifest.json": target().encoded,
        "target.manifest-object": index.encode_object(target(), found),
        "target.pack": pack,
        "target.update": update_object(),
        "offers": offers.encode(OFFERS),
        "bundle": bundle_object(),
    }
    folder.mkdir(parents=True)
    for name, data in vectors.items():
        (folder / name).write_bytes(data)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(vectors.items())]
    (folder / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
