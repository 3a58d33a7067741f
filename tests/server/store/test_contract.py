"""One contract for every backend of the store port."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.store import (
    AlreadyExists,
    DirectoryStore,
    MemoryStore,
    ObjectNotFound,
    Store,
    TagMismatch,
    create_store,
)
from tests.support.azurite import ACCOUNT
from tests.support.cloud_servers import make_bucket, s3_environment
from tests.support.gcs_front import GcsFront

BACKENDS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "directory": lambda path: DirectoryStore(path),
}


_LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("s3 prefix", "gs")]


@pytest.fixture(params=[*sorted(BACKENDS), "azure", "azure prefix", "s3", "gs prefix", *_LONG])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    folder = tmp_path / "store"
    kind, _, prefix = request.param.partition(" ")
    prefix = "/a/b" if prefix else ""
    name = f"c{secrets.token_hex(8)}"
    if kind == "azure":
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", request.getfixturevalue("azurite_service"))
        yield create_store(f"azblob://{ACCOUNT}/{name}{prefix}")
    elif kind == "s3":
        endpoint = request.getfixturevalue("s3_service")
        for variable, value in s3_environment(endpoint).items():
            monkeypatch.setenv(variable, value)
        yield create_store(f"s3://{make_bucket(endpoint, name)}{prefix}")
    elif kind == "gs":
        async with GcsFront(request.getfixturevalue("gcs_service")) as front:
            monkeypatch.setenv("GOOGLE_BASE_URL", front.url)
            monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "testing")
            yield create_store(f"gs://{await front.make_bucket(name)}{prefix}")
    else:
        folder.mkdir()
        yield BACKENDS[kind](folder)


async def test_what_was_created_is_read_back_whole_and_in_ranges(store: Store) -> None:
    await store.create("packs/aa", b"0123456789")
    assert await store.get("packs/aa") == b"0123456789"
    assert await store.get_range("packs/aa", 2, 3) == b"234"
    assert await store.get_range("packs/aa", 8, 100) == b"89"
    assert await store.get_range("packs/aa", 10, 5) == b""
    assert (await store.stat("packs/aa")).size == 10


async def test_an_object_tells_when_the_store_got_it_or_that_it_does_not_know(store: Store) -> None:
    await store.create("packs/aa", b"x")
    modified = (await store.stat("packs/aa")).modified
    assert modified is None or abs(datetime.now(UTC) - modified) < timedelta(minutes=5)


async def test_an_object_is_created_from_a_local_file_and_the_file_stays(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    await store.create("packs/big", source)
    assert await store.get("packs/big") == source.read_bytes()


async def test_a_missing_local_file_is_local_trouble_and_creates_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LocalError):
        await store.create("packs/none", tmp_path / "absent")
    assert await store.list("") == []


async def test_creating_twice_keeps_the_first(store: Store) -> None:
    await store.create("manifests/m", b"first")
    with pytest.raises(AlreadyExists):
        await store.create("manifests/m", b"second")
    assert await store.get("manifests/m") == b"first"


async def test_of_many_creators_exactly_one_wins(store: Store) -> None:
    results = await asyncio.gather(
        *(store.create("metadata/1.x.json", b"%d" % number) for number in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, AlreadyExists) for result in results)


async def test_replace_needs_the_tag_of_what_is_there(store: Store) -> None:
    await store.create("metadata/timestamp.json", b"one")
    first = await store.get_tagged("metadata/timestamp.json")
    tag = await store.replace("metadata/timestamp.json", b"two", first.etag)
    assert tag == (await store.get_tagged("metadata/timestamp.json")).etag
    with pytest.raises(TagMismatch):
        await store.replace("metadata/timestamp.json", b"three", first.etag)
    assert await store.get("metadata/timestamp.json") == b"two"


async def test_replace_does_not_create(store: Store) -> None:
    with pytest.raises(TagMismatch):
        await store.replace("bundles/a", b"x", "no-tag")
    assert await store.list("") == []


async def test_of_many_replacers_with_one_tag_exactly_one_wins(store: Store) -> None:
    await store.create("bundles/a", b"start")
    tag = (await store.stat("bundles/a")).etag
    results = await asyncio.gather(
        *(store.replace("bundles/a", b"%d" % number, tag) for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 1


async def test_stat_and_read_give_the_same_tag_for_small_and_large(store: Store) -> None:
    for path, size in (("packs/small", 10), ("packs/large", 3 << 20)):
        await store.create(path, b"z" * size)
        assert (await store.stat(path)).etag == (await store.get_tagged(path)).etag


async def test_list_is_sorted_and_filtered_by_prefix(store: Store) -> None:
    for path in ("updates/t/b.v1", "updates/t/a.v1", "updates/u/a.v1", "packs/p"):
        await store.create(path, path.encode())
    assert [path for path, _ in await store.list("updates/t/")] == ["updates/t/a.v1", "updates/t/b.v1"]
    assert await store.list("updates/t/a") == [("updates/t/a.v1", len("updates/t/a.v1"))]
    assert len(await store.list("")) == 4
    assert await store.list("manifests/") == []


async def test_deleting_twice_is_no_error(store: Store) -> None:
    await store.create("packs/p", b"x")
    await store.delete("packs/p")
    await store.delete("packs/p")
    for read in (store.get, store.stat, store.get_tagged):
        with pytest.raises(ObjectNotFound):
            await read("packs/p")
    with pytest.raises(ObjectNotFound):
        await store.get_range("packs/p", 0, 1)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../b", "a//b", "", "a/.hidden", "a\\b", "a/b\n", "ä/b", "a/"]
)
async def test_paths_that_could_leave_the_store_are_refused(store: Store, path: str) -> None:
    with pytest.raises(UsageError):
        await store.create(path, b"x")
    with pytest.raises(UsageError):
        await store.get(path)
    with pytest.raises(UsageError):
        await store.replace(path, b"x", "t")
    with pytest.raises(UsageError):
        await store.delete(path)
