"""Decodes a release that make_release.py made on another machine: a first install, then an update of it. No pytest."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from modelsync_protocol import codecs, index, update
from modelsync_protocol.index import Index
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Frame
from tests.protocol.golden import check


def checks(folder: Path) -> list[tuple[str, check.Check]]:
    """A check for each way that the release in `folder` reaches a device."""
    old, new = (version["manifest"] for version in json.loads((folder / "versions.json").read_text(encoding="utf-8")))
    return [
        ("a release's first install", partial(install, folder, old, 1)),
        ("the same release's update", partial(update_to, folder, old, new)),
    ]


def target(folder: Path, digest: str) -> tuple[Manifest, Index]:
    """What is stored for a version."""
    return index.decode_object((folder / "store" / "manifests" / digest).read_bytes(), digest)


def install(folder: Path, digest: str, version: int) -> None:
    """All frames from packs."""
    _, listed = target(folder, digest)
    packs = [(folder / "store" / "packs" / name).read_bytes() for name, _ in listed.packs]
    frames = [op for op in listed.operations if isinstance(op, Frame)]
    payloads = b"".join(
        packs[place.pack][place.offset : place.offset + op.payload_length]
        for op, place in zip(frames, listed.places, strict=True)
    )
    assert codecs.RANS_NEW in {op.encoding for op in frames}, "no tensor frame in it: it tests too little"
    assert check.build(listed.operations, payloads, b"", listed.tables) == model(folder, version)


def update_to(folder: Path, old: str, new: str) -> None:
    """One update object, on the first version's bytes."""
    base, _ = target(folder, old)
    data = (folder / "store" / "updates" / new / f"{old}.v1").read_bytes()
    preamble = update.decode_preamble(data)
    assert preamble is not None
    header = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base)
    frames = [op for op in header.operations if isinstance(op, Frame)]
    assert codecs.RANS_DELTA in {op.encoding for op in frames}, "no tensor frame in it: it tests too little"
    stream = check.build(header.operations, data[preamble.payload_offset :], model(folder, 1), header.tables)
    assert stream == model(folder, 2)


def model(folder: Path, version: int) -> bytes:
    """What was published."""
    return (folder / f"{version}.safetensors").read_bytes()
