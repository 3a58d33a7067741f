"""Encodes ensembles of trees as columns (encoding 7), everything else as plain bytes. No I/O here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from modelsync_protocol import caps, codecs
from modelsync_protocol.ops import Frame, Op
from modelsync_protocol.tree_files import binned_scan, boosted_arrays, scan, text_arrays
from modelsync_protocol.tree_files.tree_columns import TreeColumns
from modelsync_server.encode import changed, encoder
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.scratch.spool import Payload
from modelsync_server.tensors import pairs
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import Chunk

_TREES = TreeColumns()
_MARKS = (b"n_node_samples", b"nodes_featureids", b"split_conditions", b"split_feature=", b"num_threshold")
"""What files with trees that encoding 7 knows hold somewhere: others are not looked through."""

_CONTINUED = {"scikit-learn": "warm_start", "XGBoost": "xgb_model", "LightGBM": "init_model"}
"""What libraries call growing an ensemble further."""

_MAX_PAYLOAD_BYTES = 256 * caps.KIB
_NODES, _BASE_NODES = 20_000, 32_000
"""Nodes of a frame's trees, and of those it leans on: a device decodes them in 32 MiB."""

_LEAST_NODE_BYTES = 55
"""Of HistGradientBoosting's records and LightGBM's text, the densest."""

_LEAST_BYTES = 1024
"""Frames shorter than this are left to others: a whole model of trees is larger."""

_Made = list[tuple[Frame, Payload]]
_Others = Callable[[list[Chunk]], _Made]


def encode_trees(
    base: Source, target: Source, oldest: Encoded, pool: Executor, effort: Effort = Effort.MAX
) -> Encoded | None:
    """Encode `target` for a device that holds `base`; None if no frame holds trees that come out smaller so."""
    offsets = target.manifest.file_offsets
    touched = pairs.touched(target.manifest, changed.spans(oldest))
    if not any(promising(target.stream[offsets[number] : offsets[number + 1]]) for number in touched):
        return None
    finder = BaseFinder(base.manifest, target.manifest)
    context = encoder.Context(target, base, finder)

    def others(unit: list[Chunk]) -> _Made:
        return encoder.encode_units([unit], context, pool)

    operations: list[Op] = []
    payloads: list[Payload] = []
    for is_changed, chunks in encoder.runs(target.manifest, finder):
        if not is_changed:
            encoder.append_copies(operations, chunks, finder)
            continue
        for unit in encoder.cut_units(chunks):
            made = _tree_frames(unit, base, target, others) or others(unit)
            operations += [frame for frame, _ in made]
            payloads += [payload for _, payload in made]
    if not any(isinstance(op, Frame) and op.encoding == codecs.TREE_COLUMNS for op in operations):
        return None
    return Encoded(tuple(operations), tuple(payloads))


def promising(stream: memoryview) -> bool:
    """Whether one of the marks stands in the stream, looked through a frame's size at a time."""
    step, overlap = caps.MAX_FRAME_BYTES, 64
    parts = (bytes(stream[begin : begin + step + overlap]) for begin in range(0, len(stream), step))
    return any(mark in part for part in parts for mark in _MARKS)


def _tree_frames(chunks: list[Chunk], base: Source, target: Source, others: _Others) -> _Made | None:
    """Frames of trees; where chunks are cut in parts, those without trees as others carry them. None if all are."""
    begin, end = chunks[0][0], chunks[-1][0] + chunks[-1][1]
    if end - begin < _LEAST_BYTES:
        return None
    part = bytes(target.stream[begin:end])
    most = _NODES * _bytes_of_a_node(part)
    if end - begin <= most:
        offset, length = _base_range(begin, end, base, target, most * _BASE_NODES // _NODES)
        payload = _TREES.encode_if(part, bytes(base.stream[offset : offset + length]), b"")
        if payload is None:
            return None
        if len(payload) <= _MAX_PAYLOAD_BYTES:
            return [(Frame(end - begin, codecs.TREE_COLUMNS, len(payload), offset, length), payload)]
    if len(chunks) < 2:
        return None
    middle = len(chunks) // 2
    halves = chunks[:middle], chunks[middle:]
    parts = [_tree_frames(half, base, target, others) for half in halves]
    if parts == [None, None]:
        return None
    made: _Made = []
    for half, frames in zip(halves, parts, strict=True):
        made += others(half) if frames is None else frames
    return made


def _bytes_of_a_node(data: bytes) -> int:
    """How many bytes of a file one node takes, at least."""
    found = next(scan.trees(data), None)
    return found.size + 8 * found.outputs * found.classes if found is not None else _LEAST_NODE_BYTES


def _base_range(begin: int, end: int, base: Source, target: Source, most: int) -> tuple[int, int]:
    """The whole base, or as much of it around the frame's counterpart as a frame may lean on."""
    size = base.manifest.size
    room = min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - (end - begin), most)
    if size <= room:
        return 0, size
    middle = (begin + end) // 2 * size // max(1, target.manifest.size)
    offset = max(0, min(middle - room // 2, size - room))
    return offset, room


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """Trees of a version, how many of them the other one has too, and what a library calls growing them further."""

    trees: int
    shared: int
    continued: str


def tree_counts(base: bytes, target: bytes) -> TreeCounts | None:
    """What `target` has of the trees of `base`; None where it holds no trees that can be told apart."""
    found = _images(target)
    if found is None:
        return None
    library, images = found
    old = _images(base)
    held = set(old[1]) if old is not None else set()
    return TreeCounts(len(images), sum(image in held for image in images), _CONTINUED[library])


def _images(data: bytes) -> tuple[str, list[bytes]] | None:
    """(library, digest of each tree)."""
    records = list(scan.trees(data))
    if records:
        return "scikit-learn", [_digest(data, [(tree.records, tree.records_end)]) for tree in records]
    for library, found in (("XGBoost", boosted_arrays.trees(data)), ("LightGBM", text_arrays.trees(data))):
        if found is not None:
            whole = [[(array.begin, array.end) for array in tree if array.name] for tree in found.arrays]
            return library, [_digest(data, spans) for spans in whole]
    binned = binned_scan.find(data)
    if binned is not None:
        return "scikit-learn", [_digest(data, [(tree.begin, tree.end)]) for tree in binned.trees]
    return None


def _digest(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    return hashlib.sha256(b"\n".join(data[begin:end] for begin, end in spans)).digest()
