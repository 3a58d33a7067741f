"""What changed between two versions: files, tensors, and where an update's bytes go. Nothing is written.

The tensors are those that the encoder sees, paired as it pairs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

import numpy as np

from modelsync_protocol import caps
from modelsync_protocol.codecs import numerals
from modelsync_protocol.manifest import EmptyDirectory, Entry, Link, Manifest, RegularFile
from modelsync_server.encode.encoder import Source
from modelsync_server.publish import price
from modelsync_server.publish.update_bytes import UpdateBytes, read_update_bytes
from modelsync_server.store import Store
from modelsync_server.store.published import materialised
from modelsync_server.tensors import pairs as tensor_pairs
from modelsync_server.tensors.pairs import Tensor
from modelsync_server.trust import catalogue_for

_BLOCK = caps.MIB
"""Elements that are compared at once, which bounds memory."""


class Change(StrEnum):
    """What became of a file or a tensor."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file (or link, or empty directory) that is not the same: sizes in bytes, None where it isn't.

    `update_bytes` is its share of the update object's payloads, None without an update object.
    """

    path: str
    change: Change
    old_size: int | None
    new_size: int | None
    update_bytes: int | None
    encodings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor that is not the same. Shapes are None where it isn't; `elements` is the new one's count.

    `changed_elements` have other bits. `relative_rms` is the root mean square of the difference over that of the old
    values, `max_abs` the largest difference in magnitude, both over the elements that are finite in both; None where
    that makes no sense (other count, old values all zero). `update_bytes` as of FileChange.
    """

    path: str
    name: str
    change: Change
    dtype: str
    old_shape: tuple[int, ...] | None
    new_shape: tuple[int, ...] | None
    elements: int
    changed_elements: int | None
    relative_rms: float | None
    max_abs: float | None
    update_bytes: int | None
    encodings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """A requirement that is not the same; None where there is none of that key."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """From version `old` to `new` of a model. `bytes` and `requests` are what a device pays for that way.

    `kind` is the plan's: `update` if there is an update object, `chunks` or `pack` if there is none; `header_bytes`
    is the part of an update object that belongs to no file. Unchanged files and tensors are only counted.
    """

    name: str
    old: int
    new: int
    kind: str
    bytes: int
    requests: int
    header_bytes: int | None
    files: tuple[FileChange, ...]
    same_files: int
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    requires: tuple[Need, ...] = ()
    """What is required of a device otherwise than before."""


async def difference(store: Store, name: str, old: int, new: int) -> Difference:
    """Compare two live versions of a model; both are decoded. UsageError, RefusedError as for `price`."""
    catalogue = await catalogue_for(store, name)
    before, after = catalogue.digest(name, old), catalogue.digest(name, new)
    async with materialised(store, before) as base, materialised(store, after) as target:
        cost = await price.price(store, after, base.manifest)
        spent = await read_update_bytes(store, base.manifest, after) if cost.kind.value == "update" else None
        files, same_files = _files(base.manifest, target.manifest, spent)
        tensors, same_tensors = _tensors(base, target, spent)
    return Difference(
        name=name,
        old=old,
        new=new,
        kind=cost.kind.value,
        bytes=cost.bytes,
        requests=cost.http_requests,
        header_bytes=spent.header_bytes if spent else None,
        files=files,
        same_files=same_files,
        tensors=tensors,
        same_tensors=same_tensors,
        requires=_needs(catalogue.model(name).requires.get(old, {}), catalogue.model(name).requires.get(new, {})),
    )


def _needs(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Need, ...]:
    keys = sorted(old.keys() | new.keys())
    return tuple(Need(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))


def _files(old: Manifest, new: Manifest, spent: UpdateBytes | None) -> tuple[tuple[FileChange, ...], int]:
    before = {entry.path: entry for entry in old.entries}
    after = {entry.path: entry for entry in new.entries}
    starts = dict(zip((file.path for file in new.files), new.file_offsets, strict=False))
    found = []
    for path in sorted(before | after):
        one, two = before.get(path), after.get(path)
        if one == two:
            continue
        change = Change.ADDED if one is None else Change.REMOVED if two is None else Change.CHANGED
        share: int | None = None
        encodings: tuple[str, ...] = ()
        if spent and isinstance(two, RegularFile):
            share, encodings = spent.of(starts[path], two.size)
        found.append(FileChange(path, change, _size(one), _size(two), share, encodings))
    return tuple(found), len(before.keys() & after.keys()) - sum(each.change is Change.CHANGED for each in found)


def _size(entry: Entry | None) -> int | None:
    if entry is None:
        return None
    return 0 if isinstance(entry, Link | EmptyDirectory) else entry.size


def _tensors(base: Source, target: Source, spent: UpdateBytes | None) -> tuple[tuple[TensorChange, ...], int]:
    old = tensor_pairs.tensors_of(base.manifest, base.stream)
    new = tensor_pairs.tensors_of(target.manifest, target.stream)
    pairs = tensor_pairs.pair(old, base.stream, new, target.stream)
    found, same = [], 0
    for tensor in new:
        before = pairs.get(tensor.offset)
        if before is not None and _same(base, before, target, tensor):
            same += 1
            continue
        found.append(_changed(base, before, target, tensor, spent))
    kept = {tensor.offset for tensor in pairs.values()}
    found += [_gone(tensor) for tensor in old if tensor.offset not in kept]
    return tuple(found), same


def _same(base: Source, old: Tensor, target: Source, new: Tensor) -> bool:
    return (
        (old.name, old.shape, old.numeral, old.length) == (new.name, new.shape, new.numeral, new.length)
    ) and base.stream[old.offset : old.offset + old.length] == target.stream[new.offset : new.offset + new.length]


def _changed(base: Source, old: Tensor | None, target: Source, new: Tensor, spent: UpdateBytes | None) -> TensorChange:
    share: int | None = None
    encodings: tuple[str, ...] = ()
    if spent:
        share, encodings = spent.of(new.offset, new.length)
    changed = rms = largest = None
    if old is not None and (old.count, old.numeral) == (new.count, new.numeral):
        changed, rms, largest = _measure(base, old, target, new)
    return TensorChange(
        path=new.path,
        name=new.name,
        change=Change.ADDED if old is None else Change.CHANGED,
        dtype=new.numeral.name,
        old_shape=old.shape if old else None,
        new_shape=new.shape,
        elements=new.count,
        changed_elements=changed,
        relative_rms=rms,
        max_abs=largest,
        update_bytes=share,
        encodings=encodings,
    )


def _gone(old: Tensor) -> TensorChange:
    return TensorChange(
        old.path, old.name, Change.REMOVED, old.numeral.name, old.shape, None, 0, None, None, None, None, ()
    )


def _measure(base: Source, old: Tensor, target: Source, new: Tensor) -> tuple[int, float | None, float | None]:
    """Elements with other bits, relative RMS, largest difference."""
    kind = new.numeral
    changed, moved, power, largest, finite = 0, 0.0, 0.0, 0.0, False
    for start in range(0, new.count, _BLOCK):
        count = min(_BLOCK, new.count - start)
        before, after = (
            np.frombuffer(source.stream, kind.unsigned_dtype, count, tensor.offset + start * kind.width)
            for source, tensor in ((base, old), (target, new))
        )
        changed += int(np.count_nonzero(before != after))
        one, two = ((numerals.widened if kind.mantissa else _whole)(kind, bits) for bits in (before, after))
        usable = np.isfinite(one) & np.isfinite(two)
        if not usable.any():
            continue
        finite = True
        with np.errstate(over="ignore"):
            gap = np.abs(two[usable] - one[usable])
            largest = max(float(gap.max()), largest)
            moved += float(gap @ gap)
            power += float(one[usable] @ one[usable])
    rms = (moved / power) ** 0.5 if power > 0 else None
    return changed, _finite(rms), _finite(largest if finite else None)


def _finite(value: float | None) -> float | None:
    """None for what left float64's range: JSON has no word for it."""
    return value if value is not None and isfinite(value) else None


def _whole(kind: numerals.Numeral, bits: numerals.Unsigned) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return (bits.view(kind.signed_dtype) if kind.signed else bits).astype(np.float64)
