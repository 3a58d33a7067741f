"""Finds the tensors of two streams and which of the old ones each new one continues. No I/O here."""

from __future__ import annotations

import hashlib
import posixpath
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol import containers
from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.manifest import Manifest
from modelsync_server.tensors import float_guesser

_LEAST_ELEMENTS, _SAMPLED = 64, 512
_MOST_COMPARED = 1 << 20
_ALIKE = 0.5
"""Correlation of sampled elements from which on two tensors are taken for the same; strangers have 0.2 at the most."""


_MOST_KNOWN = 8
"""Manifests of which it is remembered where their tensors lie: a target meets several bases and many candidates."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a stream: `count` elements from byte `offset` of the stream on; `path` is its file's."""

    path: str
    name: str
    offset: int
    count: int
    numeral: Numeral
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.numeral.width


Spans = Sequence[tuple[int, int]]
"""(begin, end) in bytes of a stream, ascending and disjoint."""

_known: dict[tuple[str, bool, tuple[int, ...] | None], tuple[Tensor, ...]] = {}
"""By digest of a manifest, which names every byte, whether floats are guessed, and the numbers of its files."""


def tensors_of(
    manifest: Manifest, stream: memoryview, *, guess: bool = True, within: Spans | None = None
) -> list[Tensor]:
    """All tensors of known element type, ascending by offset and disjoint; `within` spans: of the files they touch.

    `guess`: where a file is of no known container, what looks like floats counts too.
    """
    files = None if within is None else touched(manifest, within)
    key = manifest.digest, guess, files
    if key not in _known:
        while len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)), None)
        _known[key] = tuple(_found(manifest, stream, guess, files))
    return list(_known[key])


def touched(manifest: Manifest, spans: Spans) -> tuple[int, ...]:
    """Numbers of the regular files that share bytes with the spans, ascending."""
    offsets = manifest.file_offsets
    numbers: dict[int, None] = {}
    for begin, end in spans:
        first = bisect_right(offsets, begin) - 1
        numbers |= dict.fromkeys(range(first, min(bisect_left(offsets, end), len(manifest.files))))
    return tuple(number for number in numbers if offsets[number] < offsets[number + 1])


def _found(manifest: Manifest, stream: memoryview, guess: bool, only: Sequence[int] | None) -> list[Tensor]:
    files, offsets = manifest.files, manifest.file_offsets
    found: list[Tensor] = []
    places: dict[str, int] = {}

    def content(number: int) -> memoryview:
        return stream[offsets[number] : offsets[number + 1]]

    for number in range(len(files)) if only is None else only:
        path, data = files[number].path, content(number)
        for tensor in containers.tensors(path, data):
            found += _typed(
                path, tensor.name, offsets[number] + tensor.offset, tensor.length, tensor.dtype, tensor.shape
            )
    for number in (number for number, file in enumerate(files) if containers.names_others(file.path)):
        places = places or {file.path: place for place, file in enumerate(files)}
        found += _outside(files[number].path, content(number), places, content, offsets)
    if only is not None:
        wanted = {files[number].path for number in only}
        found = [tensor for tensor in found if tensor.path in wanted]
    if guess:
        known = {tensor.path for tensor in found}
        for number in range(len(files)) if only is None else only:
            if files[number].path not in known:
                found += _guessed(files[number].path, offsets[number], content(number))
    found.sort(key=lambda tensor: (tensor.offset, tensor.length))
    result: list[Tensor] = []
    for candidate in found:
        if candidate.count and (not result or candidate.offset >= result[-1].offset + result[-1].length):
            result.append(candidate)
    return result


def _outside(
    path: str,
    data: memoryview,
    places: Mapping[str, int],
    content: Callable[[int], memoryview],
    offsets: Sequence[int],
) -> Iterator[Tensor]:
    """Tensors that the file at `path` says lie in others; `places`: numbers of files by path."""
    folder = posixpath.dirname(path)

    def sibling(name: str) -> memoryview | None:
        number = places.get(posixpath.join(folder, name))
        return None if number is None else content(number)

    for outside in (*containers.external_tensors(path, data, sibling), *containers.beside(path, data)):
        place = posixpath.normpath(posixpath.join(folder, outside.location))
        kind, number = numerals.BY_NAME.get(outside.dtype or ""), places.get(place)
        if number is not None and kind is not None:
            length = prod(outside.shape) * kind.width if outside.length is None else outside.length
            if outside.offset + length <= offsets[number + 1] - offsets[number]:
                yield from _typed(
                    place, outside.name, offsets[number] + outside.offset, length, kind.name, outside.shape
                )


def _guessed(path: str, start: int, data: memoryview) -> Iterator[Tensor]:
    for number, guess in enumerate(float_guesser.floats(data)):
        count = guess.length // guess.numeral.width
        yield Tensor(path, f"floats {number}", start + guess.offset, count, guess.numeral, ())


def _typed(
    path: str, name: str, offset: int, length: int, dtype: str | None, shape: tuple[int, ...]
) -> Iterator[Tensor]:
    kind = numerals.BY_NAME.get(dtype or "")
    if kind is not None:
        yield Tensor(path, name, offset, length // kind.width, kind, shape)


def continued(
    base: tuple[Manifest, memoryview],
    target: tuple[Manifest, memoryview],
    within: Spans,
    *,
    guess: tuple[bool, bool] = (True, True),
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The target's tensors in the files that the spans touch, and by offset those of the base that they continue.

    Other files are read only where one of these continues nothing of its own path. `guess`: floats, of base and target.
    """
    new = tensors_of(*target, guess=guess[1], within=within)
    if not new:
        return [], {}
    paths = {tensor.path for tensor in new}
    offsets = base[0].file_offsets
    same = [(offsets[n], offsets[n + 1]) for n, file in enumerate(base[0].files) if file.path in paths]
    old = tensors_of(*base, guess=guess[0], within=same)
    exact = {_key(tensor, tensor.path) for tensor in old}
    if all(_key(tensor, tensor.path) in exact for tensor in new):
        return new, pair(old, base[1], new, target[1])
    every = tensors_of(*target, guess=guess[1])
    pairs = pair(tensors_of(*base, guess=guess[0]), base[1], every, target[1])
    return new, pairs


def pair(old: list[Tensor], old_stream: memoryview, new: list[Tensor], new_stream: memoryview) -> dict[int, Tensor]:
    """Offset of a new tensor → the old one that it continues.

    By path, name, type and shape; by name, type and shape; by content; by name and type whatever the length; by
    likeness, then by order, among those of the same type and length.
    """
    exact = {_key(t, t.path): t for t in reversed(old)}
    named = {_key(t, ""): t for t in reversed(old)}
    loosely = {(t.name, t.numeral): t for t in reversed(old)}
    contents: dict[bytes, Tensor] | None = None
    result: dict[int, Tensor] = {}
    for tensor in new:
        match = exact.get(_key(tensor, tensor.path)) or named.get(_key(tensor, ""))
        if match is None:
            if contents is None:
                contents = {_content(t, old_stream): t for t in reversed(old)}
            match = contents.get(_content(tensor, new_stream)) or (
                loosely.get((tensor.name, tensor.numeral)) if tensor.name else None
            )
        if match is not None:
            result[tensor.offset] = match
    _pair_by_likeness(old, old_stream, new, new_stream, result)
    _pair_in_order(old, new, result)
    return result


def _pair_by_likeness(
    old: list[Tensor], old_stream: memoryview, new: list[Tensor], new_stream: memoryview, result: dict[int, Tensor]
) -> None:
    """Pair tensors under other names and in another order with those whose values they resemble."""
    equals: defaultdict[tuple[Numeral, int], list[Tensor]] = defaultdict(list)
    taken = {tensor.offset for tensor in result.values()}
    for tensor in old:
        if tensor.offset not in taken:
            equals[tensor.numeral, tensor.count].append(tensor)
    wanted: defaultdict[tuple[Numeral, int], list[Tensor]] = defaultdict(list)
    for tensor in new:
        if tensor.offset not in result and tensor.count >= _LEAST_ELEMENTS:
            wanted[tensor.numeral, tensor.count].append(tensor)
    for kind, tensors in wanted.items():
        candidates = equals[kind]
        if len(candidates) < 2 or len(candidates) * len(tensors) > _MOST_COMPARED:
            continue
        likeness = _samples(tensors, new_stream) @ _samples(candidates, old_stream).T
        for place in np.argsort(-likeness, axis=None, kind="stable").tolist():
            row, column = divmod(place, len(candidates))
            if likeness[row, column] < _ALIKE:
                break
            tensor = tensors[row]
            if tensor.offset not in result and candidates[column].offset not in taken:
                result[tensor.offset] = candidates[column]
                taken.add(candidates[column].offset)


def _samples(tensors: list[Tensor], stream: memoryview) -> NDArray[np.float64]:
    """A row a tensor: some of its elements, less their mean, scaled to length 1 (0 if they are all the same)."""
    rows = np.zeros((len(tensors), _SAMPLED))
    for row, tensor in zip(rows, tensors, strict=True):
        kind = tensor.numeral
        bits = np.frombuffer(stream, kind.unsigned_dtype, tensor.count, tensor.offset)
        bits = np.ascontiguousarray(bits[:: max(1, tensor.count // _SAMPLED)][:_SAMPLED])
        with np.errstate(invalid="ignore", over="ignore"):
            values = (
                numerals.widened(kind, bits)
                if kind.mantissa
                else bits.view(kind.signed_dtype if kind.signed else kind.unsigned_dtype).astype(np.float64)
            )
        values = np.clip(np.where(np.isfinite(values), values, 0.0), -1e100, 1e100)
        row[: len(values)] = values - values.mean()
    sizes = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    result: NDArray[np.float64] = rows / np.where(sizes > 0, sizes, 1.0)
    return result


def _pair_in_order(old: list[Tensor], new: list[Tensor], result: dict[int, Tensor]) -> None:
    """Pair what is left with what has the same number among its equals."""
    equals: defaultdict[tuple[Numeral, int], list[Tensor]] = defaultdict(list)
    for tensor in old:
        equals[tensor.numeral, tensor.count].append(tensor)
    seen: Counter[tuple[Numeral, int]] = Counter()
    for tensor in new:
        kind = tensor.numeral, tensor.count
        if tensor.offset not in result and seen[kind] < len(equals[kind]):
            result[tensor.offset] = equals[kind][seen[kind]]
        seen[kind] += 1


def _key(tensor: Tensor, path: str) -> tuple[str, str, Numeral, int, tuple[int, ...]]:
    return path, tensor.name, tensor.numeral, tensor.count, tensor.shape


def _content(tensor: Tensor, stream: memoryview) -> bytes:
    return hashlib.sha256(stream[tensor.offset : tensor.offset + tensor.length]).digest()
