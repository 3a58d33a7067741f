"""How far tensors are from what an adaptive coder would take: `python -m bench.encodings --floor --corpus DIR`.

Symbols, contexts and predictions are those of the encoder. An ideal adaptive coder that begins with no counts codes
the symbols of one context in a length that only their counts decide (Dirichlet estimator). It pays for no tables.
"""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from modelsync_protocol.codecs.segments import Coded, Mode
from modelsync_server.encode import encoder, tensor_encoder
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.encoder import Source
from modelsync_server.tensors import cutter, pairs

_ALPHA = 1 / 16
"""What each symbol counts as before it was seen."""

_NEIGHBOURS = 5
"""Classes of the left and the upper neighbour's residuals together."""


@dataclass(slots=True)
class Floor:
    """Bits of all elements of a type: as we code them, by the adaptive coder, and by one that sees neighbours too."""

    elements: int = 0
    raw: float = 0.0
    ours: float = 0.0
    adaptive: float = 0.0
    neighbours: float = 0.0


def floors(base: Source, target: Source, pool: Executor) -> dict[str, Floor]:
    """By element type and mode ("f16 delta"): what its symbols cost, raw bits and tables included."""
    tensors = pairs.tensors_of(target.manifest, target.stream)
    old = pairs.tensors_of(base.manifest, base.stream)
    paired = pairs.pair(old, base.stream, tensors, target.stream)
    finder = BaseFinder(base.manifest, target.manifest)
    runs = encoder.runs(target.manifest, finder)
    spans = [(chunks[0][0], chunks[-1][0] + chunks[-1][1]) for changed, chunks in runs if changed]
    job = tensor_encoder.TensorJob(base, target, pool)
    fitted = list(pool.map(job.fit, cutter.pieces(tensors, paired, spans)))
    coding, shared, fitted = job.settle(fitted)
    found: defaultdict[str, Floor] = defaultdict(Floor)
    counts: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros((120, 256), np.int64))
    nearby: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros((120 * _NEIGHBOURS, 256), np.int64))
    for item in fitted:
        segment = item.segment
        if not isinstance(segment, Coded) or coding is None:
            continue
        key = f"{segment.numeral.name} {'delta' if segment.mode is Mode.DELTA else 'value'}"
        made = job.symbols(item, segment)
        one = found[key]
        raw = float(made.counts.sum(dtype=np.int64))
        one.elements += len(made.symbols)
        one.raw += raw
        one.ours += float(coding.costs(segment.group, made).sum(dtype=np.float64))
        np.add.at(counts[key], (made.contexts, made.symbols), 1)
        wide = made.contexts.astype(np.int64) * _NEIGHBOURS + _classes(made.symbols, segment.columns)
        np.add.at(nearby[key], (wide, made.symbols), 1)
    for key, one in found.items():
        one.ours += 8 * len(shared) * one.elements / sum(other.elements for other in found.values())
        one.adaptive = _adaptive(counts[key]) + one.raw
        one.neighbours = _adaptive(nearby[key]) + one.raw
    return dict(found)


def _classes(symbols: NDArray[np.uint8], columns: int) -> NDArray[np.int64]:
    """Class of what stands left of each element and above it; symbols ascend with magnitude."""
    sizes = np.zeros(len(symbols), np.int64)
    for distance in {1, columns}:
        if distance < len(symbols):
            sizes[distance:] += symbols[:-distance]
    edges = np.quantile(sizes, np.arange(1, _NEIGHBOURS) / _NEIGHBOURS)
    return np.searchsorted(edges, sizes)


def _adaptive(cells: NDArray[np.int64]) -> float:
    """Bits of an ideal adaptive coder for the symbols of each row, one after the other."""
    used = cells[cells.sum(1) > 0]
    letters = int((cells.sum(0) > 0).sum())
    totals = used.sum(1)
    nats = gammaln(totals + _ALPHA * letters) - gammaln(_ALPHA * letters)
    nats = nats - np.where(used > 0, gammaln(used + _ALPHA) - gammaln(_ALPHA), 0.0).sum(1)
    return float(nats.sum()) / math.log(2)


def rows(name: str, found: dict[str, Floor]) -> list[str]:
    """Lines of a table: bytes, and by how many per cent we are above the floors."""
    return [
        f"{name:26} {key:10} {one.elements:>11,} {one.ours / 8:>12,.0f} {one.adaptive / 8:>12,.0f} "
        f"{100 * (one.ours / one.adaptive - 1):>+7.2f} % {one.neighbours / 8:>12,.0f} "
        f"{100 * (one.ours / one.neighbours - 1):>+7.2f} %"
        for key, one in sorted(found.items())
    ]
