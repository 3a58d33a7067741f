"""Reads published versions back from a store: manifests with their index, and whole streams. Nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache

from modelsync_protocol import caps, codecs, index, names, update
from modelsync_protocol.errors import FormatError
from modelsync_protocol.index import Index
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame, Op
from modelsync_protocol.plan import NOTHING
from modelsync_protocol.update import Preamble, Update
from modelsync_server.encode.encoder import Source
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.plain_views import scratch, stream_of, view_of

_HEAD_BYTES = 64 * caps.KIB
"""What is read first of an update object: most headers are in it."""

_WINDOW_BYTES = 4 * caps.MIB
"""What is read at once of an update object's payloads."""


async def read_manifest(store: Store, digest: str) -> tuple[Manifest, Index, int]:
    """Return a version's manifest and index, and the bytes of their object. Raises ObjectNotFound, FormatError."""
    data = await store.get(names.manifest_object(digest))
    manifest, found = _decoded(data, digest)
    return manifest, found, len(data)


@lru_cache(maxsize=2)
def _decoded(data: bytes, digest: str) -> tuple[Manifest, Index]:
    """A publication asks for its target's and its base's nine times; of thousands of files each takes half a second."""
    return index.decode_object(data, digest)


@asynccontextmanager
async def materialised(store: Store, digest: str) -> AsyncIterator[Source]:
    """Yield a published version with its stream, decoded from its packs and checked chunk by chunk.

    The stream lies in a temporary file and is valid inside the context. Raises FormatError if it is damaged.
    """
    if digest == NOTHING.digest:
        yield Source(NOTHING, memoryview(b""))
        return
    manifest, found, _ = await read_manifest(store, digest)
    places = iter(found.places)

    async def payload(op: Frame) -> bytes:
        place = next(places)
        return await store.get_range(names.pack_object(found.packs[place.pack][0]), place.offset, op.payload_length)

    async with _built(manifest.size, found.operations, found.tables, memoryview(b""), payload) as area:
        source = Source(manifest, area)
        check_chunks(source)
        yield source


async def read_header(store: Store, path: str, base: Manifest) -> tuple[Preamble, Update]:
    """The head of an update object: its sizes, and what it says for that base. ObjectNotFound, FormatError."""
    head = await store.get_range(path, 0, _HEAD_BYTES)
    preamble = update.decode_preamble(head)
    if preamble is not None and preamble.payload_offset > len(head):
        head += await store.get_range(path, len(head), preamble.payload_offset - len(head))
    if preamble is None or preamble.payload_offset > len(head):
        raise FormatError(f"{path} is cut short.")
    return preamble, update.decode_header(preamble, head[preamble.offset : preamble.payload_offset], base)


async def check_update(store: Store, base: Source, target: Manifest, version: int = 1) -> None:
    """Apply the update object from `base` to `target` and compare; FormatError if it doesn't give the target."""
    path = names.update_object(target.digest, base.manifest.digest, version)
    size = (await store.stat(path)).size
    preamble, header = await read_header(store, path, base.manifest)
    if header.target.skeleton != target.skeleton or header.payload_bytes != size - preamble.payload_offset:
        raise FormatError(f"{path} is for another target, or is not whole.")
    position = begin = preamble.payload_offset
    window = b""

    async def payload(op: Frame) -> bytes:
        nonlocal position, begin, window
        if position + op.payload_length > begin + len(window):
            begin, window = position, await store.get_range(path, position, max(_WINDOW_BYTES, op.payload_length))
        position += op.payload_length
        return window[position - op.payload_length - begin : position - begin]

    views = header.views
    if views is None:
        async with _built(target.size, header.operations, header.tables, base.stream, payload) as area:
            check_chunks(Source(target, area))
        return
    with view_of(views.base, base.stream) as plain:
        async with _built(views.target.size, header.operations, header.tables, plain, payload) as area:
            with stream_of(views.target, area) as stream:
                check_chunks(Source(target, stream))


def check_chunks(source: Source) -> None:
    """Raise FormatError unless each chunk of the stream has its digest."""
    for offset, size, digest in source.manifest.chunks():
        if hashlib.sha256(source.stream[offset : offset + size]).hexdigest() != digest:
            raise FormatError(f"bytes {offset} to {offset + size} of {source.manifest.digest[:12]}… are damaged.")


_Payload = Callable[[Frame], Awaitable[bytes]]
"""Brings a frame's payload; frames ask in order."""


@asynccontextmanager
async def _built(
    size: int, operations: Sequence[Op], tables: bytes, base: memoryview, payload: _Payload
) -> AsyncIterator[memoryview]:
    """Carry out operations into a temporary flat file of `size` bytes; yield its content."""
    with scratch(size) as area:
        position = 0
        for op in operations:
            if isinstance(op, Copy):
                origin = area if op.own else base
                data = bytes(origin[op.offset : op.offset + op.length])
            else:
                lean = bytes(base[op.base_offset : op.base_offset + op.base_length])
                prefix = bytes(area[position - op.prefix : position])
                data = bytes(codecs.decode(op.encoding, await payload(op), op.length, lean, prefix, tables))
            area[position : position + op.length] = data
            position += op.length
        yield area


async def published_sizes(store: Store, digest: str, version: int = 1) -> dict[str, int]:
    """Base digest → bytes of each update object to `digest` in that version of its format."""
    return (await sizes_by_version(store, digest)).get(version, {})


async def sizes_by_version(store: Store, digest: str) -> dict[int, dict[str, int]]:
    """Version of the update's format → base digest → bytes of each update object to `digest`."""
    result: dict[int, dict[str, int]] = {version: {} for version in range(1, codecs.NEWEST_VERSION + 1)}
    for path, size in await store.list(f"updates/{digest}/"):
        base, _, suffix = path.rpartition("/")[2].rpartition(".v")
        if suffix.isdecimal() and int(suffix) in result:
            result[int(suffix)][base] = size
    return result


async def has_manifest(store: Store, digest: str) -> bool:
    """Whether the manifest object is there (then its packs are too: they are written before it)."""
    try:
        await store.stat(names.manifest_object(digest))
    except ObjectNotFound:
        return False
    return True
