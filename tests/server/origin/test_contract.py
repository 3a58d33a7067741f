"""One contract for whatever serves a store: our origin and nginx, over HTTP and TLS (docs/origin.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from .conftest import CONTENT, OBJECTS, PACK, Origin


@pytest.fixture
async def http(origin: Origin) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=origin.tls or True)
    async with aiohttp.ClientSession(origin.url, connector=connector, auto_decompress=False) as session:
        yield session


async def test_every_object_is_served_whole_with_its_length(http: aiohttp.ClientSession) -> None:
    for path, data in OBJECTS.items():
        async with http.get(f"/{path}") as response:
            assert (response.status, await response.read()) == (200, data)
            assert response.headers["Content-Length"] == str(len(data))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-99", 5, 99),
        ("bytes=102000-", 102_000, 102_399),
        ("bytes=-10", 102_390, 102_399),
        ("bytes=102390-999999", 102_390, 102_399),
        ("bytes=0-102399", 0, 102_399),
    ],
)
async def test_a_range_is_answered_with_just_that(
    http: aiohttp.ClientSession, asked: str, first: int, last: int
) -> None:
    async with http.get(f"/{PACK}", headers={"Range": asked}) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
        assert await response.read() == CONTENT[first : last + 1]


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=999999-9999999"])
async def test_a_range_beyond_the_end_is_416_with_the_length(http: aiohttp.ClientSession, asked: str) -> None:
    async with http.get(f"/{PACK}", headers={"Range": asked}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=abc", "bytes=9-5", "bytes"])
async def test_what_is_no_range_gets_the_whole_or_416(http: aiohttp.ClientSession, asked: str) -> None:
    async with http.get(f"/{PACK}", headers={"Range": asked}) as response:
        assert response.status in (200, 416)
        assert response.status == 416 or await response.read() == CONTENT


async def test_a_strong_tag_answers_304_and_guards_a_resume(http: aiohttp.ClientSession) -> None:
    async with http.get(f"/{PACK}") as response:
        tag = response.headers["ETag"]
        assert tag.startswith('"')
    async with http.get(f"/{PACK}", headers={"If-None-Match": tag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with http.get(f"/{PACK}", headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200
    async with http.get(f"/{PACK}", headers={"Range": "bytes=9-", "If-Range": tag}) as response:
        assert (response.status, response.headers["ETag"]) == (206, tag)
        assert await response.read() == CONTENT[9:]
    async with http.get(f"/{PACK}", headers={"Range": "bytes=9-", "If-Range": '"other"'}) as response:
        assert (response.status, await response.read()) == (200, CONTENT)


async def test_head_says_what_get_would_send(http: aiohttp.ClientSession) -> None:
    async with http.head(f"/{PACK}") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == str(len(CONTENT))
    async with http.get(f"/{PACK}") as get:
        assert get.headers["ETag"] == response.headers["ETag"]


async def test_only_what_changes_is_revalidated(http: aiohttp.ClientSession) -> None:
    for path in OBJECTS:
        async with http.get(f"/{path}") as response:
            changes = path.startswith("bundles/") or path == "metadata/timestamp.json"
            wanted = "no-cache" if changes else "public, max-age=31536000, immutable"
            assert response.headers["Cache-Control"] == wanted


async def test_a_later_publish_is_seen_with_a_new_tag(http: aiohttp.ClientSession, origin: Origin) -> None:
    async with http.get("/metadata/timestamp.json") as response:
        tag = response.headers["ETag"]
    try:
        await asyncio.to_thread(origin.put, "packs/later", b"new")
        await asyncio.to_thread(origin.put, "metadata/timestamp.json", b'{"timestamp":22}')
        async with http.get("/metadata/timestamp.json", headers={"If-None-Match": tag}) as response:
            assert (response.status, await response.read()) == (200, b'{"timestamp":22}')
        async with http.get("/packs/later") as response:
            assert await response.read() == b"new"
    finally:
        await asyncio.to_thread(origin.put, "metadata/timestamp.json", OBJECTS["metadata/timestamp.json"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/packs/",
        "/packs",
        "/packs/absent",
        "/updates/" + "ab" * 32,
        "/.lock",
        "/packs/.tmp-1",
        "/keys/x",
        "/index.html",
    ],
)
async def test_there_are_no_listings_and_nothing_else_is_served(
    http: aiohttp.ClientSession, origin: Origin, path: str
) -> None:
    (origin.store / ".lock").write_bytes(b"")
    (origin.store / "packs" / ".tmp-1").write_bytes(b"half")
    async with http.get(path, allow_redirects=False) as response:
        assert response.status in (301, 403, 404)
        assert b"ab" * 32 not in await response.read()


async def test_the_store_is_never_left(http: aiohttp.ClientSession, origin: Origin) -> None:
    secret = origin.store.parent / "secret"
    secret.write_bytes(b"SECRET")
    link = origin.store / "packs" / "link"
    if not link.is_symlink():
        link.symlink_to(secret)
    for path in (
        "/packs/../../secret",
        "/packs/%2e%2e/%2e%2e/secret",
        "/packs/..%2f..%2fsecret",
        "/packs/..%252f..%252fsecret",
        "/packs//../../secret",
        "/packs/..\\..\\secret",
        "/packs/link",
        "//secret",
        "/packs/%00",
    ):
        async with http.get(URL(f"{origin.url}{path}", encoded=True)) as response:
            assert response.status in (400, 403, 404)
            assert b"SECRET" not in await response.read()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(http: aiohttp.ClientSession, method: str) -> None:
    async with http.request(method, f"/{PACK}", data=b"x") as response:
        assert response.status in (403, 405)
    async with http.get(f"/{PACK}") as response:
        assert await response.read() == CONTENT
