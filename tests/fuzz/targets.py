"""Everything that reads bytes from outside, as a table: name → function of bytes. Runs nothing by itself, no I/O.

A target returns on any bytes: it swallows refusals (ModelsyncError), raises what else escapes a parser, and checks what
must hold of whatever was accepted. Golden vectors give the fixed parts, such as an update's base.
"""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Callable
from functools import cache, partial
from typing import Final

import zstandard

from modelsync_daemon.disk import pointer as daemon_pointer
from modelsync_daemon.site import gateway
from modelsync_daemon.workers import suspicion
from modelsync_inference.model import pointer as inference_pointer
from modelsync_protocol import (
    bundle,
    canonical,
    caps,
    carried_report,
    chunker,
    codecs,
    containers,
    index,
    manifest,
    media,
    offers,
    ops,
    parcel,
    references,
    release_record,
    site,
    twin,
    update,
)
from modelsync_protocol.blocks import block_frames
from modelsync_protocol.codecs import low_rank, rans_delta, rans_new, segments, subtract, tables, transpose, zstd
from modelsync_protocol.errors import FormatError, ModelsyncError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy
from modelsync_protocol.plain import recipes, section
from modelsync_protocol.tree_files import tree_columns
from modelsync_protocol.wire import Reader
from modelsync_server.plain import member_finder
from tests.fuzz import requirements, services
from tests.protocol.golden import check

Target = Callable[[bytes], None]

SUFFIXES: Final = (
    "onnx",
    "safetensors",
    "tflite",
    "npy",
    "npz",
    "pt",
    "pkl",
    "joblib",
    "txt",
    "h5",
    "keras",
    "f16",
    "gguf",
    "pt2",
    "bin",
)
REFERRING: Final = ("onnx", "ort", "tflite", "json", "pkl", "pt", "keras", "npy", "h5")
LOADED: Final = (block_frames, low_rank, rans_delta, rans_new, subtract, transpose, tree_columns, zstd)
"""Encodings load lazily; named here so that coverage sees them."""

CARVED_BYTES: Final = 9
"""Head of a frame's input: decoded length (3 bytes), base (2), prefix (2), tables (2); then these parts, the payload
last."""

MAX_BUILT_BYTES: Final = caps.MIB
"""An update's operations are carried out only up to this size: a target may claim gigabytes."""


def carve(length: int, base: bytes, prefix: bytes, shared: bytes, payload: bytes) -> bytes:
    """A frame's input from its parts."""
    head = length.to_bytes(3, "little") + b"".join(len(part).to_bytes(2, "little") for part in (base, prefix, shared))
    return head + base + prefix + shared + payload


def frame(encoding: int, data: bytes) -> None:
    """Decode a carved frame: it has the declared length."""
    head = [int.from_bytes(data[a:b], "little") for a, b in ((0, 3), (3, 5), (5, 7), (7, 9))]
    parts, place = [], CARVED_BYTES
    for size in head[1:]:
        parts.append(data[place : place + size])
        place += size
    decoded = codecs.decode(encoding, data[place:], head[0], *parts)
    assert len(decoded) == head[0] <= caps.MAX_FRAME_BYTES


def head(data: bytes) -> None:
    """A tensor frame's segments tile it."""
    length, base = int.from_bytes(data[:3], "little") % (caps.MAX_FRAME_BYTES + 1), int.from_bytes(data[3:6], "little")
    found = segments.read(Reader(data[6:], "a head"), length, base)
    assert sum(segment.length for segment in found.segments) == length


def shared_tables(data: bytes) -> None:
    """Tables are whole, and every context has one."""
    found = tables.read(data)
    symbols, steps = found.slots()
    count = len(symbols) // tables.TOTAL
    assert len(symbols) == len(steps) == len(found.packed()) == count * tables.TOTAL and count <= tables.MAX_TABLES
    assert all(len(group) == tables.MAX_CONTEXTS and int(group.max()) < count for group in found.contexts)


@cache
def base_manifest() -> Manifest:
    """The golden base."""
    return manifest.decode(check.read("base.manifest.json"))


@cache
def target_manifest() -> Manifest:
    """The golden target."""
    return manifest.decode(check.read("target.manifest.json"))


def whole_update(data: bytes) -> None:
    """Header, then every payload: what comes out has the size that the skeleton says."""
    preamble = update.decode_preamble(data)
    if preamble is None:
        return
    found = update.decode_header(preamble, data[preamble.offset : preamble.payload_offset], base_manifest())
    if found.target.size <= MAX_BUILT_BYTES and found.payload_bytes == len(data) - preamble.payload_offset:
        built = check.build(found.operations, data[preamble.payload_offset :], check.read("base.stream"), found.tables)
        assert len(built) == found.target.size


def manifest_object(data: bytes) -> None:
    """The document is accepted under its own digest, so that the index behind it is reached."""
    front = b""
    with contextlib.suppress(zstandard.ZstdError):
        front = zstandard.ZstdDecompressor(max_window_size=caps.MIB).decompressobj().decompress(data[: 4 * caps.KIB])
    found, listed = index.decode_object(data, canonical.digest(front))
    assert found.encoded == front
    assert sum(op.length for op in listed.operations) == found.size


def document(data: bytes) -> None:
    """A manifest has one spelling only."""
    assert manifest.decode(data).encoded == data


def skeleton(data: bytes) -> None:
    """So has a skeleton."""
    assert manifest.complete(data, None).skeleton == data


def operations(data: bytes) -> None:
    """Operations tile the target, lean on what is there, and have one spelling only."""
    reader = Reader(data, "operations")
    found = ops.read_ops(reader, target=target_manifest(), base_size=base_manifest().size)
    reader.end()
    position = 0
    for op in found:
        if isinstance(op, Copy):
            assert 0 <= op.offset <= (position if op.own else base_manifest().size) - op.length
        else:
            assert op.prefix <= position and 0 <= op.base_offset <= base_manifest().size - op.base_length
        position += op.length
    assert position == target_manifest().size
    again = bytearray()
    ops.write_ops(again, found)
    assert again == data


def offered(data: bytes) -> None:
    """Offers have one spelling only."""
    assert not data or offers.encode(offers.decode(data)) == data


def trust_bundle(data: bytes) -> None:
    """What comes out of a bundle stays within the cap."""
    found = bundle.decode(data)
    assert sum(map(len, (found.timestamp, found.snapshot, found.role, found.offers))) <= 2 * caps.MAX_BUNDLE_BYTES
    offered(found.offers)


def trust_parcel(data: bytes) -> None:
    """A parcel's objects are slices of it; only one kind is unfolded, each within the cap."""
    found = parcel.decode(data)
    assert all(len(content) <= caps.MAX_BUNDLE_BYTES for content in (found.bundle, *found.objects.values()))


def release(data: bytes) -> None:
    """What was read of a release record can be written, and reads the same."""
    found = release_record.decode(data)
    assert release_record.decode(release_record.encode(found)) == found


def media_index(data: bytes) -> None:
    """An index has one spelling only."""
    assert media.encode(media.decode(data)) == data


def media_file(data: bytes) -> None:
    """Entries of an export lie inside it and do not overlap."""
    end = 0
    for offset, length in media.entries(lambda offset, count: data[offset : offset + count], len(data)).values():
        assert offset >= end + media.BLOCK_BYTES
        end = offset + length
    assert end <= len(data) - len(media.END)


def report(data: bytes) -> None:
    """What is understood of a carried report can be signed, and reads the same."""
    found = carried_report.decode(data)
    assert carried_report.check(carried_report.sign(found, "YQ=="), ["YQ=="]) == found


def neighbour(data: bytes) -> None:
    """What neighbours and a gateway's children ask and answer, the objects they name, and what a worker says of them:
    what is accepted says the same when written again."""
    kind, rest = data[:1], data[1:]
    if kind == b"a":
        holder = site.parse_answer(rest)
        assert len(rest) <= site.MAX_ANSWER_BYTES and site.parse_answer(site.encode_answer(holder)) == holder
        return
    if kind == b"q":
        question = site.parse_question(dict(urllib.parse.parse_qsl(rest.decode("latin-1"))))
        assert site.parse_question(question.query()) == question and len(question.excluded) <= site.MAX_EXCLUDED
        return
    if kind == b"r":
        size = int.from_bytes(rest[:8], "little")
        begin, end = gateway.asked(rest[8:].decode("latin-1"), size)
        assert begin >= 0 and end <= size
        return
    if kind == b"w":
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            given: suspicion.Given = {}
            suspicion.read(json.loads(rest), {"peers": ["10.0.0.7:8444"]}, given)
            assert set().union(*given.values()) == {"10.0.0.7:8444"}
        return
    target = rest.decode("latin-1")
    if kind == b"g":  # what a gateway's child asks for
        target = site.target_of(target, "https://origin.example/store?sig=secret")
        assert "secret" not in target or "secret" in rest.decode("latin-1")
    if site.is_target(target):
        assert ".." not in target.partition("?")[0].split("/") and target.isascii() and len(site.key_of(target)) == 16


def desired(data: bytes) -> None:
    """Reading a twin never raises, whatever the hub's JSON holds."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        found = twin.parse_desired(value)
    except ModelsyncError as error:
        raise AssertionError("parse_desired raises") from error
    assert len(found.problems) <= 17


def pointers(data: bytes) -> None:
    """What the daemon reads as a pointer it writes as one, and the inference process reads the same."""
    with contextlib.suppress(ModelsyncError):
        inference_pointer.parse_pointer(data, "m")
    found = daemon_pointer.decode(data)
    written = daemon_pointer.encode(found)
    assert daemon_pointer.decode(written) == found
    assert inference_pointer.parse_pointer(written, found.name).ref.digest == found.digest


def canonical_json(data: bytes) -> None:
    """What the strict reader accepts and can be written is stable."""
    value = canonical.decode(data, what="a document", limit=caps.MIB)
    written = canonical.encode(value)
    assert canonical.encode(canonical.decode(written, what="a document", limit=4 * caps.MIB)) == written


def split(data: bytes) -> None:
    """A model of two files: bytes up to the first NUL are the first, the rest is what stands beside it."""
    first, _, beside = data.partition(b"\0")
    for name in ("m.xml", "m.param"):
        for tensor in containers.external_tensors(name, memoryview(first), lambda _: memoryview(beside)):
            assert tensor.offset >= 0 and (name == "m.xml" or tensor.offset + (tensor.length or 0) <= len(beside))


def model_file(suffix: str, data: bytes) -> None:
    """Tensors are disjoint, ascending, not empty, and inside the file."""
    end = 0
    for tensor in containers.tensors(f"model.{suffix}", memoryview(data)):
        assert tensor.offset >= end and tensor.length > 0
        end = tensor.offset + tensor.length
    assert end <= len(data)
    containers.external_tensors(f"model.{suffix}", memoryview(data))
    containers.nibbles(f"model.{suffix}", memoryview(data))


def members(data: bytes) -> None:
    """What may be unpacked of a file lies inside it; the publisher alone looks, at its author's files."""
    for found in member_finder.members("model.bin", memoryview(data)):
        assert 0 <= found.offset <= len(data) - found.packed and found.packed > 0 and found.plain > 0


def plain_views(data: bytes) -> None:
    """Views between streams of 64 KiB: every byte of a view lies at one place of its stream or among plain bytes."""
    reader = Reader(data, "views")
    found = section.read(reader, 64 * caps.KIB, 64 * caps.KIB)
    for view in () if found is None else (found.base, found.target):
        assert view.rest_bytes + sum(member.packed for member in view.members) == view.stream_size
        end = min(view.size, MAX_BUILT_BYTES)
        assert sum(piece.length for piece in view.pieces(0, end)) == end
    again = bytearray()
    section.write(again, found)
    assert section.read(Reader(bytes(again), "views"), 64 * caps.KIB, 64 * caps.KIB) is not None or found is None


def unpack(data: bytes) -> None:
    """A member, its recipe before it: no more comes out than was declared, and what comes out whole packs again."""
    reader = Reader(data, "a member")
    recipe = recipes.read(reader)
    declared = reader.varint(MAX_BUILT_BYTES)
    packed = data[reader.offset :]
    if not packed or not declared or not recipe.fits(len(packed), declared):
        return
    size = 0
    for piece in recipes.unpack(recipe, recipes.blocks(packed), declared):
        size += len(piece)
        assert size <= declared + 1
    assert size == declared


def referred(data: bytes) -> None:
    """Reading what a model refers to never raises, and names only files of the artifact; the first byte is the kind."""
    if data:
        path = f"m.{REFERRING[data[0] % len(REFERRING)]}"
        tree = references.MemoryTree({path: memoryview(data)[1:], "weights.bin": memoryview(bytes(8))})
        found = references.read(tree, code=True)
        assert {item.text for item in found.refers} <= set(tree.files)


def chunks(data: bytes) -> None:
    """Chunks tile the file, none empty or above the cap; the first byte chooses the suffix."""
    if not data:
        return
    content = memoryview(data)[1:]
    sizes = chunker.chunk_sizes(f"model.{SUFFIXES[data[0] % len(SUFFIXES)]}", content)
    assert sum(sizes) == len(content) and all(0 < size <= caps.TENSOR_CHUNK_BYTES for size in sizes)


def refusing(target: Target) -> Target:
    """The target, with refusals as an ordinary end."""

    def run(data: bytes) -> None:
        try:
            target(data)
        except ModelsyncError as error:
            assert isinstance(error, FormatError) or error.exit_code in (2, 3), repr(error)

    return run


_ALL: Final[dict[str, Target]] = {
    "bundle": trust_bundle,
    "canonical": canonical_json,
    "carried-report": report,
    "chunks": chunks,
    "decode-blocks": partial(frame, codecs.BLOCKS),
    "decode-low-rank": partial(frame, codecs.LOW_RANK),
    "decode-patch": partial(frame, codecs.ZSTD_PATCH),
    "decode-rans-delta": partial(frame, codecs.RANS_DELTA),
    "decode-rans-new": partial(frame, codecs.RANS_NEW),
    "decode-records": partial(frame, codecs.RECORDS),
    "decode-subtract": partial(frame, codecs.SUBTRACT),
    "decode-transpose": partial(frame, codecs.TRANSPOSE),
    "decode-tree-columns": partial(frame, codecs.TREE_COLUMNS),
    "decode-zstd": partial(frame, codecs.ZSTD),
    "head": head,
    "manifest": document,
    "manifest-object": manifest_object,
    "media-file": media_file,
    "media-index": media_index,
    "offers": offered,
    "operations": operations,
    "parcel": trust_parcel,
    "pointer": pointers,
    "read-references": referred,
    "release-record": release,
    "members": members,
    "plain-views": plain_views,
    "read-gguf": partial(model_file, "gguf"),
    "read-hdf5": partial(model_file, "h5"),
    "read-exported": partial(model_file, "pt2"),
    "read-core-ml": partial(model_file, "bin"),
    "read-split": split,
    "read-keras": partial(model_file, "keras"),
    "read-npy": partial(model_file, "npy"),
    "read-npz": partial(model_file, "npz"),
    "read-onnx": partial(model_file, "onnx"),
    "read-pickle": partial(model_file, "pkl"),
    "read-safetensors": partial(model_file, "safetensors"),
    "read-tflite": partial(model_file, "tflite"),
    "read-torch": partial(model_file, "pt"),
    "skeleton": skeleton,
    "tables": shared_tables,
    "twin": desired,
    "site": neighbour,
    "unpack": unpack,
    "update": whole_update,
    **services.TARGETS,
}

TARGETS: Final = {name: refusing(target) for name, target in (_ALL | requirements.TARGETS).items()}
"""Every target by name."""
