"""Tells a publisher what would have made this update cheaper, from measurement on the very pair. No I/O here.

What is simulated (another element type) is really encoded, in memory, and never published: changing a model is its
author's decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import caps, update
from modelsync_protocol.chunker import chunk_sizes
from modelsync_protocol.codecs import low_rank, numerals
from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_server.encode.encoder import Source
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.encode.tree_candidate import promising, tree_counts
from modelsync_server.low_rank.adapters import Adapter
from modelsync_server.scratch import spool
from modelsync_server.tensors import pairs as pairing
from modelsync_server.tensors.pairs import Tensor

_WORTH_BYTES = 64 * caps.KIB
"""Updates smaller than this are cheap enough as they are."""

_MOST_BYTES = 256 * caps.MIB
"""Larger models are not simulated: it would double the publisher's time."""

_WORTH_TREES = 4 * caps.KIB
"""The same of ensembles of trees, which are smaller."""

_MOST_TREES = 32 * caps.MIB
"""Larger ensembles are not looked through."""

_FEW_TREES = 10
_MOSTLY_KEPT = 0.5

_UNRELATED = 0.7
"""Relative RMS difference from which weights count as independent (√2 if they are)."""

_BLOCK_ELEMENTS = 1 << 20
"""Of weights that are looked at or rounded at once."""

_WIDTHS = {"F16": 2, "BF16": 2, "I8": 1}

_SMALLER = 0.67
"""Another element type is named if it would have cost less than this share."""

_SHORT_BITS = 10.6
"""What a factor in bfloat16 costs: sign and mantissa, and its exponent coded (docs/adr/0020)."""

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence for the publisher, and what the update would have cost (bytes; None if that makes no sense)."""

    text: str
    bytes: int | None = None


def advise(base: Source, target: Source, cost: int, pool: Executor) -> list[Advice]:
    """Advice on an update from `base` to `target` that costs `cost` bytes; empty if there is nothing to say."""
    if cost >= _WORTH_TREES and max(base.manifest.size, target.manifest.size) <= _MOST_TREES:
        trees = _grown_anew(base, target, cost)
        if trees is not None:
            return [trees]
    if cost < _WORTH_BYTES or target.manifest.size > _MOST_BYTES:
        return []
    new = pairing.tensors_of(target.manifest, target.stream)
    pairs = pairing.pair(pairing.tensors_of(base.manifest, base.stream), base.stream, new, target.stream)
    floats = [
        (_weights(base, pairs[tensor.offset]), _weights(target, tensor), tensor)
        for tensor in new
        if tensor.numeral == numerals.F32 and tensor.offset in pairs and pairs[tensor.offset].count == tensor.count
    ]
    if sum(tensor.length for _, _, tensor in floats) < target.manifest.size // 2:
        return []
    if _unrelated(floats):
        return [
            Advice(
                "retrained from scratch: the weights share nothing with the last version, so no delta exists; "
                "a training that starts from the last version's weights leaves one"
            )
        ]
    return list(_other_types(floats, cost, pool))


def advise_merged(header: bytes, size: int, base: Manifest, adapter: Adapter | None) -> Iterator[Advice]:
    """Advice on an update object of `size` bytes whose matrices changed as a merged adapter leaves them."""
    products = low_rank.products(_tables(header, base))
    if adapter is not None and not any(product.scale is not None for product in products):
        fits = "its factors cost more than the same found in the pair" if products else "it changed no matrix of it"
        yield Advice(f"{adapter.path.name} made the update from the last version no smaller: {fits}")
    if adapter is None and products:
        ranks = sorted({product.rank for product in products})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        factors = sum(len(product.payload) for product in products)
        short = int(sum(product.factors for product in products) * _SHORT_BITS / 8)
        text = (
            f"a merged adapter of {rank} in {len(products)} matrices: its factors are {factors:,} bytes of the update"
        )
        if short < _SMALLER * factors:
            text += f"; `--adapter FILE` takes them as they are, about {short:,} bytes if they are 16-bit floats"
        yield Advice(text, size - factors + short if short < _SMALLER * factors else None)


def _tables(header: bytes, base: Manifest) -> bytes:
    preamble = update.decode_preamble(header)
    if preamble is None:
        return b""
    return update.decode_header(preamble, header[preamble.offset : preamble.payload_offset], base).tables


def _grown_anew(base: Source, target: Source, cost: int) -> Advice | None:
    """What an ensemble would have cost that kept the last version's trees."""
    if not promising(target.stream):
        return None
    counts = tree_counts(bytes(base.stream), bytes(target.stream))
    if counts is None or counts.trees < _FEW_TREES or counts.shared > counts.trees * _MOSTLY_KEPT:
        return None
    added = max(1, counts.trees // 10)
    new = counts.trees - counts.shared
    each = cost / new
    return Advice(
        f"{new} of {counts.trees} trees are new, {each:,.0f} bytes each: retrained, they share "
        f"nothing with the last version's; trained further ({counts.continued}), {added} trees more would cost "
        f"{each * added / 1e3:,.1f} KB instead of {cost / 1e3:,.1f} KB",
        round(each * added),
    )


def _weights(source: Source, tensor: Tensor) -> _Floats:
    raw = source.stream[tensor.offset : tensor.offset + tensor.length]
    return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)


def _unrelated(floats: list[tuple[_Floats, _Floats, Tensor]]) -> bool:
    moved = power = 0.0
    for whole_old, whole_new, _ in floats:
        if np.isfinite(whole_old).all() and np.isfinite(whole_new).all():
            for begin in range(0, len(whole_old), _BLOCK_ELEMENTS):
                old, new = (each[begin : begin + _BLOCK_ELEMENTS] for each in (whole_old, whole_new))
                difference = new.astype(np.float64) - old
                moved += float(difference @ difference)
                power += float(old.astype(np.float64) @ old)
    return power > 0 and (moved / power) ** 0.5 > _UNRELATED


def _other_types(floats: list[tuple[_Floats, _Floats, Tensor]], cost: int, pool: Executor) -> Iterator[Advice]:
    for name, dtype, cast in (
        ("fp16", "F16", _half),
        ("bf16", "BF16", _brain),
        ("int8 with frozen scales", "I8", _byte),
    ):
        old, new = (
            _safetensors(dtype, cast, [(pair[which], pair[0], tensor) for *pair, tensor in floats]) for which in (0, 1)
        )
        encoded = encode_tensors(_source(old), _source(new), pool)
        if encoded is not None and encoded.cost < _SMALLER * cost:
            yield Advice(
                f"as {name} this update would have cost {encoded.cost / 1e6:.2f} MB instead of {cost / 1e6:.2f} MB",
                encoded.cost,
            )


_Cast = Callable[[_Floats, _Floats], NDArray[Any]]
"""(rows of weights, the same of the old version) → the same in another element type."""


def _half(weights: _Floats, _: _Floats) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return weights.astype("<f2")


def _brain(weights: _Floats, _: _Floats) -> NDArray[Any]:
    bits = weights.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype("<u2")


def _byte(weights: _Floats, old: _Floats) -> NDArray[Any]:
    scale = np.maximum(np.abs(old).max(1, keepdims=True), 1e-12) / np.float32(127)
    quantised: NDArray[np.int8] = np.clip(np.rint(np.nan_to_num(weights / scale)), -127, 127).astype(np.int8)
    return quantised


def _safetensors(dtype: str, cast: _Cast, tensors: list[tuple[_Floats, _Floats, Tensor]]) -> memoryview:
    """A file of the weights in another element type, in a scratch file; made some rows at a time."""
    header: dict[str, object] = {}
    places: list[int] = []
    offset = 0
    for number, (weights, _, tensor) in enumerate(tensors):
        kept = dtype == "I8" and len(tensor.shape) < 2  # a bias, whose scale would be as large as itself
        places.append(offset)
        offset += len(weights) * (4 if kept else _WIDTHS[dtype])
        of = {"dtype": "F32" if kept else dtype, "shape": list(tensor.shape), "data_offsets": [places[-1], offset]}
        header[f"{number}.{tensor.name}"] = of
    text = json.dumps(header).encode()
    file = spool.room(8 + len(text) + offset)
    file[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    for place, (weights, old, tensor) in zip(places, tensors, strict=True):
        kept = dtype == "I8" and len(tensor.shape) < 2
        at = 8 + len(text) + place
        columns = max(1, len(weights) // max(1, tensor.shape[0])) if len(tensor.shape) > 1 else 1
        step = max(1, _BLOCK_ELEMENTS // columns) * columns
        for begin in range(0, len(weights), step):
            rows, before = (each[begin : begin + step].reshape(-1, columns) for each in (weights, old))
            made = (rows if kept else cast(rows, before)).tobytes()
            file[at : at + len(made)] = made
            at += len(made)
    return file.toreadonly()


def _source(data: memoryview) -> Source:
    sizes = chunk_sizes("model.safetensors", data)
    digests = []
    position = 0
    for size in sizes:
        digests.append(hashlib.sha256(data[position : position + size]).hexdigest())
        position += size
    return Source(Manifest((RegularFile("model.safetensors", 0o644, sizes, tuple(digests)),)), data)
