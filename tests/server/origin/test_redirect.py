"""Readers of much are sent to the bucket by signed URLs, which end; s3rver ends them, as clouds do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import obstore
import pytest
from obstore.store import S3Store

from modelsync_daemon.transfer.origin_client import Origin as Client
from tests.support.cloud_servers import S3RVER_KEY, s3_environment, s3rver
from tests.support.relay import Relay

from .conftest import CONTENT, OBJECTS, PACK, Origin, serve

BIG = "updates/" + "ef" * 32 + "/" + "cd" * 32 + ".v1"
BODY = CONTENT * 30
SECONDS = 2


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an S3 whose bucket `box` holds objects of a store."""
    with s3rver(tmp_path_factory.mktemp("s3") / "data", "box") as endpoint:
        store = S3Store(
            "box",
            endpoint=endpoint,
            client_options={"allow_http": True},
            access_key_id=S3RVER_KEY,
            secret_access_key=S3RVER_KEY,
        )
        for path, data in {**OBJECTS, BIG: BODY}.items():
            obstore.put(store, path, data)
        yield endpoint


@pytest.fixture
async def line(bucket: str) -> AsyncIterator[Relay]:
    """The line to the bucket, which devices use and which can be slowed, cut and counted."""
    async with Relay("127.0.0.1", urlsplit(bucket).port or 0) as relay:
        yield relay


@pytest.fixture
async def origin(line: Relay) -> AsyncIterator[Origin]:
    """`modelsync serve` before the bucket, which it names as devices see it."""
    environment = s3_environment(f"http://127.0.0.1:{line.port}", S3RVER_KEY)
    options = ["--redirect-from", "50000", "--redirect-seconds", str(SECONDS)]
    running = serve("s3://box", None, options=options, environment=environment)
    found = await asyncio.to_thread(running.__enter__)  # it asks the bucket over the line, which this loop is
    yield found
    await asyncio.to_thread(running.__exit__, None, None, None)


async def test_small_parts_come_from_here_and_large_ones_from_the_bucket(origin: Origin) -> None:
    async with aiohttp.ClientSession(origin.url) as http:
        for asked, status in (("bytes=0-49998", 206), ("bytes=0-49999", 307), ("bytes=50000-", 307)):
            async with http.get(f"/{BIG}", headers={"Range": asked}, allow_redirects=False) as answer:
                assert answer.status == status
        async with http.get("/bundles/anomaly", allow_redirects=False) as answer:
            assert await answer.read() == b"bundle"
        async with http.get(f"/{BIG}") as answer:
            assert await answer.read() == BODY and "X-Amz-Signature" in str(answer.url)


@pytest.mark.long
async def test_who_began_at_one_place_goes_on_there(origin: Origin) -> None:
    """The two give different tags; a resume that changed places would begin again."""
    async with aiohttp.ClientSession(origin.url) as http:
        async with http.get(f"/{BIG}") as answer:
            theirs = answer.headers["ETag"]
        async with http.get(f"/{BIG}", headers={"Range": "bytes=0-9"}) as answer:
            ours = answer.headers["ETag"]
        last = f"bytes={len(BODY) - 10}-"
        for tag, asked, hosts in ((theirs, last, 2), (ours, "bytes=10-", 1)):
            async with http.get(f"/{BIG}", headers={"Range": asked, "If-Range": tag}) as answer:
                assert answer.status == 206 and len(answer.history) == hosts - 1
                assert await answer.read() == (BODY[-10:] if asked == last else BODY[10:])


async def test_a_signed_url_that_ends_in_mid_download_is_renewed_and_the_download_goes_on_at_its_byte(
    origin: Origin, line: Relay
) -> None:
    async with Client(origin.url, stall_seconds=20) as client:
        body = client.open(BIG, 0, len(BODY), whole=True)
        line.rate = 400_000
        got = await body.read(500_000)
        line.rate = 1  # what is under way does not matter: it is lost with the line
        old = str(body._response.url) if body._response else ""
        line.cut()
        line.rate = None
        line.restore()
        await asyncio.sleep(SECONDS + 1.2)
        async with aiohttp.ClientSession() as http, http.get(old) as answer:
            assert answer.status == 403, "the URL has ended"
        begin = line.counts()
        got += await body.read(len(BODY) - 500_000)
        assert got == BODY
        assert (line.counts() - begin).down < len(BODY) - 500_000 + 3_000, "no byte came twice"


@pytest.mark.long
async def test_what_a_redirect_costs_is_what_the_documents_say(origin: Origin) -> None:
    """The answer that sends away, and the second request; a longer host or bucket, or a session's token, adds to it."""
    host = urlsplit(origin.url).netloc
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /{BIG} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    place = urlsplit(answer.partition("Location: ")[2].partition("\r\n")[0])
    again = f"GET {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
    assert answer.startswith("HTTP/1.1 307") and 900 < len(answer) + len(again) < 1000


@pytest.mark.long
async def test_a_store_is_served_without_any_key_on_the_device(origin: Origin, tmp_path: Path) -> None:
    async with Client(origin.url) as client:
        assert await client.get("bundles/anomaly", 100) == OBJECTS["bundles/anomaly"]
        assert await client.size(PACK) == len(CONTENT)
        pack = client.open(PACK, 1000, 90_000, whole=False)
        assert await pack.read(89_000) == CONTENT[1000:90_000]
