"""Finds the tensors of two streams and which of the old ones each new one continues. No I/O here."""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass
from math import prod

from modelsync_protocol import containers
from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.manifest import Manifest
from modelsync_server.encode.tensors import float_guesser


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


def tensors_of(manifest: Manifest, stream: memoryview, *, guess: bool = True) -> list[Tensor]:
    """All tensors of known element type, ascending by offset and disjoint.

    `guess`: where a file is of no known container, what looks like floats counts too.
    """
    found: list[Tensor] = []
    starts = dict(zip((file.path for file in manifest.files), manifest.file_offsets, strict=False))
    sizes = {file.path: file.size for file in manifest.files}
    for file in manifest.files:
        start = starts[file.path]
        data = stream[start : start + file.size]
        for tensor in containers.tensors(file.path, data):
            found += _typed(file.path, tensor.name, start + tensor.offset, tensor.length, tensor.dtype, tensor.shape)
        folder = posixpath.dirname(file.path)

        def sibling(name: str, folder: str = folder) -> memoryview | None:
            path = posixpath.join(folder, name)
            return stream[starts[path] : starts[path] + sizes[path]] if path in starts else None

        for outside in (*containers.external_tensors(file.path, data, sibling), *containers.beside(file.path, data)):
            place = posixpath.normpath(posixpath.join(folder, outside.location))
            kind = numerals.BY_NAME.get(outside.dtype or "")
            if place in starts and kind is not None:
                length = prod(outside.shape) * kind.width if outside.length is None else outside.length
                if outside.offset + length <= sizes[place]:
                    offset = starts[place] + outside.offset
                    found += _typed(place, outside.name, offset, length, kind.name, outside.shape)
    if guess:
        found += _guessed(manifest, stream, {tensor.path for tensor in found})
    found.sort(key=lambda tensor: (tensor.offset, tensor.length))
    result: list[Tensor] = []
    for candidate in found:
        if candidate.count and (not result or candidate.offset >= result[-1].offset + result[-1].length):
            result.append(candidate)
    return result


def _guessed(manifest: Manifest, stream: memoryview, known: Set[str]) -> Iterator[Tensor]:
    for file, start in zip(manifest.files, manifest.file_offsets, strict=False):
        if file.path not in known:
            for number, guess in enumerate(float_guesser.floats(stream[start : start + file.size])):
                count = guess.length // guess.numeral.width
                yield Tensor(file.path, f"floats {number}", start + guess.offset, count, guess.numeral, ())


def _typed(
    path: str, name: str, offset: int, length: int, dtype: str | None, shape: tuple[int, ...]
) -> Iterator[Tensor]:
    kind = numerals.BY_NAME.get(dtype or "")
    if kind is not None:
        yield Tensor(path, name, offset, length // kind.width, kind, shape)


def pair(old: list[Tensor], old_stream: memoryview, new: list[Tensor], new_stream: memoryview) -> dict[int, Tensor]:
    """Offset of a new tensor → the old one that it continues.

    By path, name, type and shape; by name, type and shape; by content; by name and type whatever the length; by
    order among those of the same type and length.
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
    _pair_in_order(old, new, result)
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
