"""A folder of many small files costs its publisher what is new in it, for about the bytes of an unbounded search."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.scale import models
from modelsync_protocol import codecs
from modelsync_protocol.codecs import zstd
from modelsync_protocol.index import Index
from modelsync_protocol.ops import Copy, Frame
from modelsync_server.encode.choice import smallest_update
from modelsync_server.encode.encoder import Source
from modelsync_server.publish import packer
from modelsync_server.publish.artifact import snapshot
from modelsync_server.scratch.parts import Parts
from modelsync_server.tensors.effort import Effort
from tests.server.tensors.worlds import carried_out

_FILES, _BYTES = 300, 1_500_000


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Source, Source]]:
    pair = models.tree(tmp_path_factory.mktemp("tree"), _FILES, _BYTES, changed=1)
    with snapshot(pair.old) as old, snapshot(pair.new) as new:
        yield Source(old.manifest, old.stream), Source(new.manifest, new.stream)


Packed = tuple[Index, dict[str, bytes]]


def _pack(
    target: Source, pool: ThreadPoolExecutor, known: packer.Known | None = None, old: dict[str, bytes] | None = None
) -> Packed:
    def read(name: str, offset: int, length: int) -> bytes:
        assert old is not None
        return old[name][offset : offset + length]

    index, packs = packer.pack(target, known or {}, pool, lambda *_: None, read=read if old is not None else None)
    return index, {name: _content(parts) for name, parts in packs.items()}


def _content(parts: Parts) -> bytes:
    with parts.source() as data:
        return data if isinstance(data, bytes) else data.read_bytes()


def _rebuilt(index: Index, packs: dict[str, bytes]) -> bytes:
    out = bytearray()
    places = iter(index.places)
    for op in index.operations:
        if isinstance(op, Copy):
            out += out[op.offset : op.offset + op.length]
            continue
        place = next(places)
        payload = packs[index.packs[place.pack][0]][place.offset : place.offset + op.payload_length]
        before = bytes(out[len(out) - op.prefix :])
        out += codecs.decode(op.encoding, payload, op.length, b"", before, index.tables)
    return bytes(out)


def _known(target: Source, index: Index) -> packer.Known:
    return packer.frames_of(target.manifest, index)


@pytest.fixture(scope="module")
def first(versions: tuple[Source, Source], pool: ThreadPoolExecutor) -> Packed:
    return _pack(versions[0], pool)


def _payloads(packed: Packed) -> set[bytes]:
    index, packs = packed
    frames = [op for op in index.operations if isinstance(op, Frame)]
    return {
        packs[index.packs[place.pack][0]][place.offset : place.offset + frame.payload_length]
        for frame, place in zip(frames, index.places, strict=True)
        if index.packs[place.pack][0] in packs
    }


def test_frames_around_no_change_are_not_encoded_again(
    versions: tuple[Source, Source], first: Packed, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = versions
    work: list[int] = []
    compress = zstd.compress

    def counted(data: bytes, dictionary: bytes, tuning: int | None = None) -> bytes:
        work.append(len(data))
        return compress(data, dictionary, tuning)

    monkeypatch.setattr(zstd, "compress", counted)
    index, packs = _pack(new, pool, _known(old, first[0]), first[1])
    assert _rebuilt(index, {**first[1], **packs}) == bytes(new.stream)
    referred = [name for name, _ in index.packs if name not in packs]
    assert referred or _payloads((index, packs)) & _payloads(first)
    assert sum(work) < 0.75 * new.manifest.size


def test_a_frame_with_an_edit_is_cut_as_before_and_encoded_once(
    versions: tuple[Source, Source], first: Packed, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = versions
    looked: list[int] = []
    real = zstd._compress

    def counted(data: bytes, dictionary: bytes, tuning: dict[str, int]) -> bytes:
        looked.append(len(data))
        return real(data, dictionary, tuning)

    monkeypatch.setattr(zstd, "_compress", counted)
    index, packs = _pack(new, pool, _known(old, first[0]), first[1])
    assert _rebuilt(index, {**first[1], **packs}) == bytes(new.stream)
    lengths, before = ([op.length for op in each.operations] for each in (index, first[0]))
    assert lengths == before  # an edit of this tree keeps lengths
    carried, anew = (
        sum(op.payload_length for op in each.operations if isinstance(op, Frame)) for each in (first[0], index)
    )
    assert anew <= 1.003 * carried + 400
    assert sum(looked) <= new.manifest.size + 1_000_000, "frames are tried in several ways"


def test_a_damaged_old_pack_is_no_source_of_payloads(
    versions: tuple[Source, Source], first: Packed, pool: ThreadPoolExecutor
) -> None:
    old, new = versions
    spoilt = {name: bytes(byte ^ 1 for byte in data) for name, data in first[1].items()}
    index, packs = _pack(new, pool, _known(old, first[0]), spoilt)
    good = {**first[1], **packs}
    assert _rebuilt(index, good) == bytes(new.stream)
    assert not _payloads((index, packs)) & {bytes(byte ^ 1 for byte in each) for each in _payloads(first)}


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that zstd's thorough levels are given, dictionaries included: what an update's time goes into."""
    spent: list[int] = []
    real = zstd._compress

    def counted(data: bytes, dictionary: bytes, tuning: dict[str, int]) -> bytes:
        spent.append(len(data) + len(dictionary))
        return real(data, dictionary, tuning)

    monkeypatch.setattr(zstd, "_compress", counted)
    return spent


def test_an_edit_is_searched_for_where_it_was_made(
    versions: tuple[Source, Source], pool: ThreadPoolExecutor, searched: list[int]
) -> None:
    made = smallest_update(*versions, pool, effort=Effort.DEFAULT)
    assert carried_out(made, versions[0]) == bytes(versions[1].stream)
    assert sum(searched) < 6 * versions[1].manifest.size


@pytest.mark.long
def test_an_edit_costs_no_more_than_by_an_unbounded_search(
    versions: tuple[Source, Source], pool: ThreadPoolExecutor, searched: list[int]
) -> None:
    most = smallest_update(*versions, pool, effort=Effort.MAX)
    unbounded, searched[:] = sum(searched), []
    made = smallest_update(*versions, pool, effort=Effort.DEFAULT)
    assert made.cost <= 1.003 * most.cost + 16
    assert sum(searched) < unbounded / 2
