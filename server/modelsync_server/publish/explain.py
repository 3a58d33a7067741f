"""Where a published update's bytes went: per tensor and per rest of a file, by encoding. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelsync_protocol.errors import UsageError
from modelsync_server.blocks import block_tensors
from modelsync_server.encode.encoder import Source
from modelsync_server.plain import view_builder
from modelsync_server.publish import price
from modelsync_server.publish.update_bytes import UpdateBytes, read_update_bytes
from modelsync_server.store import Store
from modelsync_server.store.published import materialised
from modelsync_server.tensors import pairs
from modelsync_server.trust import catalogue_for


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the target, or (`tensor` None) all of a file that is in no tensor.

    `size` is what it holds, unpacked where the update unpacks it; `encodings` are its payload bytes by encoding. Of a
    frame that holds several parts each is given the share that its length has.
    """

    path: str
    tensor: str | None
    size: int
    encodings: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Payload bytes."""
        return sum(self.encodings.values())


@dataclass(frozen=True, slots=True)
class Explanation:
    """The update object from version `old` to `new`: `bytes` are `header_bytes` and those of all parts."""

    name: str
    old: int
    new: int
    bytes: int
    header_bytes: int
    parts: tuple[Part, ...]
    """Dearest first."""

    @property
    def encodings(self) -> dict[str, int]:
        """Payload bytes by encoding, most first."""
        total: dict[str, int] = {}
        for part in self.parts:
            for name, cost in part.encodings.items():
                total[name] = total.get(name, 0) + cost
        return dict(sorted(total.items(), key=lambda item: -item[1]))


async def explain(store: Store, name: str, old: int, new: int) -> Explanation:
    """Explain the smallest update object between two live versions; UsageError if there is none."""
    catalogue = await catalogue_for(store, name)
    before, after = catalogue.digest(name, old), catalogue.digest(name, new)
    async with materialised(store, before) as base, materialised(store, after) as target:
        cost = await price.price(store, after, base.manifest)
        if cost.kind.value != "update":
            raise UsageError(f"no update object leads from version {old} to {new}: publish with --bases {old} for one.")
        spent = await read_update_bytes(store, base.manifest, after)
        if spent.view is None:
            parts = list(_parts(target, spent))
        else:
            with view_builder.rebuilt(target, spent.view) as plain:
                parts = list(_files(target, spent) if plain is None else _parts(plain, spent))
    parts.sort(key=lambda part: (-part.bytes, -part.size, part.path, part.tensor or ""))
    return Explanation(
        name, old, new, spent.header_bytes + sum(part.bytes for part in parts), spent.header_bytes, tuple(parts)
    )


def _parts(source: Source, spent: UpdateBytes) -> Iterator[Part]:
    """Tensors and rests of a source that the update's operations tile."""
    tensors = _tensors(source)
    number = 0
    for file, start in zip(source.manifest.files, source.manifest.file_offsets, strict=False):
        path = view_builder.shown_path(file.path)
        end, position = start + file.size, start
        rest: dict[str, int] = {}
        held = 0
        while number < len(tensors) and tensors[number].offset < end:
            tensor = tensors[number]
            _add(rest, spent.laid_out_by_encoding(position, tensor.offset - position))
            yield Part(path, tensor.name, tensor.length, spent.laid_out_by_encoding(tensor.offset, tensor.length))
            position = tensor.offset + tensor.length
            held += tensor.length
            number += 1
        _add(rest, spent.laid_out_by_encoding(position, end - position))
        if file.size > held:
            yield Part(path, None, file.size - held, rest)


def _tensors(source: Source) -> list[pairs.Tensor | block_tensors.BlockTensor]:
    """All tensors, of single elements and in blocks, ascending and disjoint."""
    blocks = block_tensors.find(source.manifest, source.stream)
    found: list[pairs.Tensor | block_tensors.BlockTensor] = [*blocks]
    found += pairs.tensors_of(source.manifest, source.stream, guess=not blocks)
    found.sort(key=lambda tensor: tensor.offset)  # stable: blocks come before what else is said of the same bytes
    result: list[pairs.Tensor | block_tensors.BlockTensor] = []
    for tensor in found:
        if not result or tensor.offset >= result[-1].offset + result[-1].length:
            result.append(tensor)
    return result


def _files(target: Source, spent: UpdateBytes) -> Iterator[Part]:
    """Whole files of the target's stream: all that can be said of a view whose names are not known here."""
    for file, start in zip(target.manifest.files, target.manifest.file_offsets, strict=False):
        yield Part(file.path, None, file.size, spent.by_encoding(start, file.size))


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, cost in more.items():
        total[name] = total.get(name, 0) + cost
