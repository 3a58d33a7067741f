"""Reading a private bucket by an access key: the server checks signatures, and a front ends a key in mid-download."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import obstore
import pytest
from aiohttp import web
from obstore.store import S3Store

from modelsync_daemon.transfer import origin_secret
from modelsync_daemon.transfer.errors import AccessRefused
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.origin_secret import Access
from modelsync_protocol.access.aws_signature import SigningKey
from modelsync_protocol.errors import UsageError
from tests.support.cloud_servers import private_s3
from tests.support.lying_front import LyingFront

BODY = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def private() -> Iterator[tuple[str, SigningKey]]:
    """The URL of a private store, below a prefix of a bucket, and a key that reads it."""
    with private_s3("box") as (endpoint, key):
        store = S3Store(
            "box",
            endpoint=endpoint,
            client_options={"allow_http": True},
            access_key_id=key.key,
            secret_access_key=key.secret,
        )
        obstore.put(store, "models/packs/x", BODY)
        yield f"{endpoint}/box/models", key


def _file(folder: Path, key: SigningKey) -> Access:
    (folder / "secret").write_text(key.document())
    return Access([folder / "secret"])


async def test_a_private_bucket_is_read_by_ranges_with_a_key_and_not_without(
    private: tuple[str, SigningKey], tmp_path: Path
) -> None:
    bucket, key = private
    async with Origin(bucket, access=_file(tmp_path, key)) as origin:
        assert await origin.size("packs/x") == len(BODY) and await origin.size("packs/none") is None
        body = origin.open("packs/x", 1000, 3000, whole=False)
        assert await body.read(2000) == BODY[1000:3000]
    wrong = SigningKey(key.key, "wrong", "us-east-1")
    async with Origin(bucket, stall_seconds=3, access=_file(tmp_path, wrong)) as origin:
        with pytest.raises(AccessRefused) as caught:
            await origin.get("packs/x", 1 << 21)
        assert "wrong" not in str(caught.value)


async def test_a_key_that_ends_in_mid_download_is_renewed_and_the_download_goes_on_at_its_byte(
    private: tuple[str, SigningKey], tmp_path: Path
) -> None:
    """What a service says of a key that has ended is 403 at the next request: here, where the line breaks."""
    bucket, key = private
    ended: list[str] = []
    ranges: list[str | None] = []
    refused = asyncio.Event()

    def answer(request: web.Request) -> web.StreamResponse | None:
        ranges.append(request.headers.get("Range"))
        if not ended and len(ranges) > 1:
            ended.append(request.headers["Authorization"])
            refused.set()
            return web.Response(status=403, text="<Error><Code>ExpiredToken</Code></Error>")
        return None

    server = bucket.removesuffix("/box/models")
    async with LyingFront(server, answer=answer) as front:
        access = _file(tmp_path, SigningKey(key.key, key.secret, key.region, expires="2026-01-01T00:00:00Z"))
        async with Origin(f"{front.url}/box/models", stall_seconds=20, access=access) as origin:
            body = origin.open("packs/x", 0, len(BODY), whole=True)
            got = await body.read(300_000)
            body.close()  # the line breaks
            rest = asyncio.ensure_future(body.read(len(BODY) - 300_000))
            await refused.wait()
            (tmp_path / "secret").write_text(key.document())  # a timer renews it
            assert got + await rest == BODY
    assert ranges[0] is None and set(ranges[1:]) == {"bytes=300000-"}, "nothing was asked for twice"


async def test_a_clock_that_is_an_hour_off_is_corrected_by_the_services(
    private: tuple[str, SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, key = private
    behind = datetime.now(UTC).timestamp() - 3600
    monkeypatch.setattr(time, "time", lambda: behind)

    def answer(request: web.Request) -> web.StreamResponse | None:
        signed = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs((datetime.now(UTC) - signed).total_seconds()) < 900:
            return None
        date = format_datetime(datetime.now(UTC), usegmt=True)
        return web.Response(status=403, headers={"Date": date}, text="<Error><Code>RequestTimeTooSkewed</Code></Error>")

    async with LyingFront(bucket.removesuffix("/box/models"), answer=answer) as front:
        async with Origin(f"{front.url}/box/models", stall_seconds=20, access=_file(tmp_path, key)) as origin:
            assert await origin.get("packs/x", 1 << 21) == BODY
            assert await origin.size("packs/x") == len(BODY)
        assert len(front.requests) == 3, "the correction is kept"


async def test_a_signature_is_for_one_host_and_goes_to_no_other(
    private: tuple[str, SigningKey], tmp_path: Path
) -> None:
    bucket, key = private
    seen: list[dict[str, str]] = []

    def there(request: web.Request) -> web.StreamResponse | None:
        seen.append(dict(request.headers))
        return web.Response(body=b"x")

    async with LyingFront(bucket, answer=there) as other:

        def away(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=307, headers={"Location": f"{other.url}/x"})

        async with LyingFront(bucket, answer=away) as front, Origin(front.url, access=_file(tmp_path, key)) as origin:
            assert await origin.get("packs/x", 10) == b"x"
    assert len(seen) == 1 and "Authorization" not in seen[0] and "x-amz-date" not in seen[0]


def test_a_key_comes_by_method_and_says_its_end(tmp_path: Path) -> None:
    key = SigningKey("ASIA1", "s3cr3t", "auto", "T", "2026-12-01T00:00:00Z")
    text = origin_secret.of_method(json.loads(key.document()))
    assert origin_secret.keep(tmp_path, text) == "2026-12-01T00:00:00Z"
    assert (tmp_path / origin_secret.FILE_NAME).stat().st_mode & 0o777 == 0o600
    access = Access([tmp_path / origin_secret.FILE_NAME])
    assert access.query == "" and "Authorization" in access.headers("GET", "https://s3.example.com/box/x")
    assert origin_secret.of_method({"sas": None}) is None and origin_secret.of_method({"sas": "a=b"}) == "a=b"
    payloads: tuple[object, ...] = (None, [], {}, {"sas": 7}, {"aws4": "x"})
    for wrong in payloads:
        with pytest.raises(UsageError):
            origin_secret.of_method(wrong)
    for wrong_text in ('{"aws4": {"key": "s3cr3t"}}', '{"aws4"', "{}", '{"a":' * 900):
        with pytest.raises(UsageError) as caught:
            origin_secret.parse(wrong_text)
        assert "s3cr3t" not in str(caught.value)


def test_what_signing_costs_on_the_wire_is_what_the_documents_say(tmp_path: Path) -> None:
    """Bytes of a request's headers that open the origin, as docs/integrations/stores.md has them."""
    url = "https://s3.eu-central-1.amazonaws.com/models/packs/x"
    plain = SigningKey("AKIA" + "X" * 16, "s" * 40, "eu-central-1")

    def cost(key: SigningKey) -> int:
        return sum(len(f"{name}: {value}\r\n") for name, value in _file(tmp_path, key).headers("GET", url).items())

    assert cost(plain) == 299
    session = SigningKey(plain.key, plain.secret, plain.region, "t" * 800)
    assert cost(session) - cost(plain) == 800 + 24 + 21
