"""Streams that a publisher keeps: used, bounded, never believed, never needed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from modelsync_protocol import caps
from modelsync_protocol.manifest import EmptyDirectory, Manifest
from modelsync_server.cache import stream_cache
from modelsync_server.encode.encoder import Source
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.publisher import Release, publish
from modelsync_server.store import MemoryStore
from modelsync_server.trust import initialise

SIZE = 128 * caps.KIB


class Press:
    def __init__(self, root: Path) -> None:
        self.root, self.store = root, MemoryStore()

    async def put(self, seed: int) -> Release:
        content = bytearray(np.random.default_rng(1).bytes(8 * caps.KIB) * (SIZE // caps.KIB // 8))
        content[:64] = np.random.default_rng(seed).bytes(64)
        path = self.root / "model.bin"
        path.write_bytes(content)
        return await publish(self.store, str(self.root / "keys"), "m", path)


@pytest.fixture
async def press(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Press:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(stream_cache.LIMIT_VARIABLE, raising=False)
    monkeypatch.setattr(stream_cache, "_LEAST_BYTES", SIZE)
    press = Press(tmp_path)
    await initialise(press.store, str(tmp_path / "keys"))
    return press


async def stream(press: Press, digest: str) -> bytes:
    async with stream_cache.stream_of(press.store, digest) as source:
        return bytes(source.stream)


async def test_a_published_stream_is_kept_and_read_without_its_packs(press: Press) -> None:
    first = await press.put(1)
    kept = stream_cache.folder() / first.digest
    assert kept.read_bytes() == (press.root / "model.bin").read_bytes()
    assert stream_cache.folder().stat().st_mode & 0o077 == 0, "only its owner reads it"
    for path in [path for path in press.store.objects if path.startswith("packs/")]:
        del press.store.objects[path]
    assert await stream(press, first.digest) == kept.read_bytes()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
async def test_a_damaged_one_is_not_believed(press: Press, damage: str) -> None:
    first = await press.put(1)
    right = (press.root / "model.bin").read_bytes()
    kept = stream_cache.folder() / first.digest
    wrong = {"flipped": right[:-1] + bytes([right[-1] ^ 1]), "cut": right[:-1], "empty": b""}[damage]
    kept.write_bytes(wrong)
    assert await stream(press, first.digest) == right


async def test_it_is_bounded_and_the_least_recently_used_goes(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stream_cache.LIMIT_VARIABLE, str(int(2.5 * SIZE)))
    first, second = await press.put(1), await press.put(2)
    for number, release in enumerate((second, first)):
        os.utime(stream_cache.folder() / release.digest, (number + 1, number + 1))
    await stream(press, second.digest)  # which makes the first the one that was used longest ago
    with snapshot(press.root / "model.bin") as artifact:
        third = Source(Manifest((EmptyDirectory("z"), *artifact.manifest.entries)[::-1]), artifact.stream)
        stream_cache.keep(third)
    left = {path.name for path in stream_cache.folder().iterdir()}
    assert second.digest in left
    assert first.digest not in left
    assert len(left) == 2


async def test_off_it_neither_keeps_nor_reads(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stream_cache.LIMIT_VARIABLE, "0")
    first = await press.put(1)
    assert not stream_cache.folder().exists()
    assert await stream(press, first.digest) == (press.root / "model.bin").read_bytes()


async def test_a_folder_that_cant_be_written_stops_nothing(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = press.root / "file"
    blocked.write_bytes(b"no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert (await press.put(1)).fresh


async def test_the_same_objects_come_of_it_as_without(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []
    for limit in ("0", str(1 << 30)):
        monkeypatch.setenv(stream_cache.LIMIT_VARIABLE, limit)
        (press.root / limit).mkdir()
        other = Press(press.root / limit)
        await initialise(other.store, str(other.root / "keys"))
        await other.put(1)
        await other.put(2)
        made = other.store.objects.items()
        updates.append({path: data for path, data in made if path.startswith(("updates", "packs"))})
    assert updates[0] == updates[1]


@pytest.mark.parametrize("way", ["a link", "written by all"])
async def test_a_folder_of_somebody_elses_is_neither_used_nor_cleared(
    press: Press, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(stream_cache.LIMIT_VARIABLE, str(int(2.5 * SIZE)))
    private = press.root / "private"
    private.mkdir(mode=0o700)
    stream_cache.folder().parent.mkdir(parents=True)
    if way == "a link":
        stream_cache.folder().symlink_to(private)
    else:
        stream_cache.folder().mkdir()
        stream_cache.folder().chmod(0o777)
    precious = stream_cache.folder() / ("a" * 64)
    precious.write_bytes(bytes(3 * SIZE))
    assert (await press.put(1)).fresh
    assert [path.name for path in stream_cache.folder().iterdir()] == [precious.name]


async def test_only_what_was_kept_there_is_deleted(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    await press.put(1)
    other = stream_cache.folder() / "notes.txt"
    other.write_bytes(bytes(3 * SIZE))
    left = stream_cache.folder() / f".new-{'0' * 16}"
    left.write_bytes(bytes(3 * SIZE))
    os.utime(other, (1, 1))
    os.utime(left, (2, 2))
    monkeypatch.setenv(stream_cache.LIMIT_VARIABLE, str(2 * SIZE))
    second = await press.put(2)
    assert {path.name for path in stream_cache.folder().iterdir()} >= {other.name, second.digest}
    assert not left.exists()


@pytest.mark.parametrize("planted", ["a link", "a pipe", "written by all"])
async def test_a_planted_file_is_not_used(press: Press, planted: str) -> None:
    first = await press.put(1)
    right = (press.root / "model.bin").read_bytes()
    kept = stream_cache.folder() / first.digest
    if planted == "written by all":
        kept.chmod(0o666)  # it could be changed after it was checked
    else:
        kept.unlink()
        kept.symlink_to(press.root / "model.bin") if planted == "a link" else os.mkfifo(kept, 0o600)
    os.utime(press.root / "model.bin", (1, 1))
    assert await stream(press, first.digest) == right
    assert (press.root / "model.bin").stat().st_mtime == 1, "what a link leads to is not touched"
    assert not _uses_cache(press, first.digest)


def _uses_cache(press: Press, digest: str) -> bool:
    with stream_cache._kept(digest, SIZE) as found:
        return found is not None


async def test_one_that_another_publisher_deletes_meanwhile_is_decoded(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await press.put(1)
    really = os.utime

    def gone_then(found: int, *times: object) -> None:
        really(found)
        (stream_cache.folder() / first.digest).unlink()

    monkeypatch.setattr(os, "utime", gone_then)
    assert await stream(press, first.digest) == (press.root / "model.bin").read_bytes()
