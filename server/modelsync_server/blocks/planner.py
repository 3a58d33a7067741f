"""Cuts changed chunks into frames of blocks and opaque stretches, by what their quants, scales and rest will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps
from modelsync_protocol.blocks.runs import MAX_QUANTS, MAX_RUNS
from modelsync_server.blocks import coding
from modelsync_server.blocks.coding import Counts
from modelsync_server.blocks.frames import Contents, Layouted, Layouter
from modelsync_server.encode.encoder import Source
from modelsync_server.encode.tensor_encoder import Made
from modelsync_server.tensors.framer import Estimate, Framing
from modelsync_server.tensors.pieces import Chunk

_AIM_BYTES = 250 * caps.KIB
_HEAD_BYTES, _CHUNK_BYTES = 600, 24
_GAP_RATIO = 0.6
"""Guesses for a payload's size: per frame, per chunk, per byte of neither blocks nor known tensors."""

_ABSORBED_BYTES = 48 * caps.KIB
"""Opaque stretches shorter than this stay inside the frames around them."""

_SAMPLE_CHUNKS = 64
"""So many chunks say what symbols cost."""

_UNSEEN_BITS = 12.0
"""What a symbol is taken to cost that the sample lacks."""


@dataclass(slots=True)
class Step:
    """A stretch of chunks: copied, opaque, or a frame that is laid out; and the frames made of it."""

    chunks: list[Chunk]
    copied: bool = False
    layouted: Layouted | None = None
    made: list[Made] = field(default_factory=list)

    @property
    def begin(self) -> int:
        """Where it begins in the stream."""
        return self.chunks[0][0]

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.chunks[-1][0] + self.chunks[-1][1]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a chunk adds to a frame: payload and decoded bytes, quants, runs; whether it is worth a frame that knows."""

    payload: float
    known: bool
    quants: int
    runs: int
    low: int
    high: int


def costs(
    chunks: Sequence[Chunk],
    layouter: Layouter,
    framing: Framing,
    floats: Mapping[int, Estimate],
    scale_ratio: float,
    streams: tuple[Source, memoryview],
    pool: Executor,
) -> list[Cost]:
    """Estimates for each of a target's changed chunks. `scale_ratio`: how far scales shrink."""
    target, base = streams

    def look(chunk: Chunk) -> tuple[Layouted, Counts]:
        frame = layouter.layout(chunk[0], chunk[0] + chunk[1], framing)
        return frame, coding.frame_counts(frame, Contents.of(frame, target.stream, base))

    total: Counts = {}
    for _, counts in pool.map(look, chunks[:: max(1, len(chunks) // _SAMPLE_CHUNKS)]):
        for key, cells in counts.items():
            total[key] = total[key] + cells if key in total else cells
    bits = {key: _bits(cells) for key, cells in total.items()}

    def cost(chunk: Chunk) -> Cost:
        frame, counts = look(chunk)
        payload = 0.0
        for key, cells in counts.items():
            found = np.flatnonzero(cells)
            known = bits[key][found] if key in bits else _UNSEEN_BITS
            payload += float((cells[found] * known).sum()) / 8
        scales = sum(placed.run.count * placed.run.layout.plane_bytes for placed in frame.runs)
        blocks = sum(placed.run.length for placed in frame.runs)
        rest = floats[chunk[0]]
        unknown = chunk[1] - blocks - rest.covered
        payload += scales * scale_ratio + rest.payload + unknown * _GAP_RATIO + _CHUNK_BYTES
        quants = sum(placed.run.quants for placed in frame.runs)
        return Cost(payload, 2 * unknown <= chunk[1], quants, len(frame.runs), frame.low, frame.high)

    return list(pool.map(cost, chunks))


def _bits(cells: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = cells.reshape(-1, 256).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num(-np.log2(rows / rows.sum(1, keepdims=True)), nan=_UNSEEN_BITS, posinf=_UNSEEN_BITS)
    costs: NDArray[np.float32] = found.astype(np.float32).reshape(-1)
    return costs


def plan(chunks: Sequence[Chunk], known: Mapping[int, Cost], layouter: Layouter, framing: Framing) -> list[Step]:
    """Steps for one changed run."""
    labelled: list[tuple[bool, list[Chunk]]] = []
    for chunk in chunks:
        _append(labelled, known[chunk[0]].known, [chunk])
    mixed = any(label for label, _ in labelled)
    merged: list[tuple[bool, list[Chunk]]] = []
    for label, part in labelled:
        small = sum(size for _, size, _ in part) <= _ABSORBED_BYTES
        _append(merged, label or (mixed and small), part)
    steps: list[Step] = []
    for label, part in merged:
        groups = _grouped(part, known) if label else []
        steps += [step for group in groups for step in laid_out(group, layouter, framing)] or [Step(part)]
    return steps


def laid_out(chunks: list[Chunk], layouter: Layouter, framing: Framing) -> list[Step]:
    """Frames of these chunks: one, or more where one can't hold them; opaque where even a chunk can't be held."""
    frame = layouter.layout(chunks[0][0], chunks[-1][0] + chunks[-1][1], framing)
    if frame.fits:
        return [Step(chunks, layouted=frame)]
    if len(chunks) == 1:
        return [Step(chunks)]
    middle = len(chunks) // 2
    return [step for part in (chunks[:middle], chunks[middle:]) for step in laid_out(part, layouter, framing)]


def _grouped(chunks: Sequence[Chunk], known: Mapping[int, Cost]) -> list[list[Chunk]]:
    groups: list[list[Chunk]] = []
    payload, decoded, quants, runs, low, high = 0.0, 0, 0, 0, 0, 0
    for chunk in chunks:
        cost = known[chunk[0]]
        spans = [span for span in ((low, high), (cost.low, cost.high)) if span[0] < span[1]]
        begin, end = (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0, 0)
        if (
            not groups
            or payload + cost.payload > _AIM_BYTES
            or decoded + chunk[1] > caps.MAX_FRAME_BYTES
            or quants + cost.quants > MAX_QUANTS
            or runs + cost.runs > MAX_RUNS
            or end - begin > min(caps.MAX_BASE_BYTES, caps.MAX_LEAN_BYTES - decoded - chunk[1])
        ):
            groups.append([])
            payload, decoded, quants, runs, begin, end = float(_HEAD_BYTES), 0, 0, 0, cost.low, cost.high
        groups[-1].append(chunk)
        payload, decoded, quants, runs = (
            payload + cost.payload,
            decoded + chunk[1],
            quants + cost.quants,
            runs + cost.runs,
        )
        low, high = begin, end
    return groups


def _append(labelled: list[tuple[bool, list[Chunk]]], label: bool, chunks: list[Chunk]) -> None:
    if labelled and labelled[-1][0] == label:
        labelled[-1][1].extend(chunks)
    else:
        labelled.append((label, list(chunks)))
