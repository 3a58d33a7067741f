"""What only the blob store does: addresses, credentials, blocks, and the service's refusals in our words."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from azure.core.pipeline.transport import AioHttpTransport

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.publish.publisher import publish
from modelsync_server.store import AlreadyExists, MemoryStore, ObjectNotFound, create_store, open_store
from modelsync_server.store.azblob import BLOCK_BYTES, AzureBlobStore, Patience
from modelsync_server.store.azure_account import BlobAddress
from modelsync_server.trust import NewTarget, Repository, initialise
from tests.support.azurite import ACCOUNT, KEY
from tests.support.trust_world import digest_of

QUICK = Patience(retries=1, first=0.01, base=0.01, jitter=0.0)


@pytest.fixture
def account(azurite_service: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a publisher with a connection string; returns a new container's address."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    return f"azblob://{ACCOUNT}/c{secrets.token_hex(8)}"


@pytest.mark.parametrize(
    ("url", "prefix"), [("azblob://acc/box", ""), ("azblob://acc/box/", ""), ("azblob://acc/box/a/b", "a/b/")]
)
def test_an_address_is_read_and_written_back(url: str, prefix: str) -> None:
    address = BlobAddress.parse(url)
    assert (address.account, address.container, address.prefix) == ("acc", "box", prefix)
    assert BlobAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    ["azblob://", "azblob://acc", "azblob://A/b", "azblob://acc/b", "azblob://acc/box/../x", "azblob://acc/box?sig=s"],
)
def test_what_is_no_address_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        BlobAddress.parse(url)
    assert "sig=" not in str(caught.value)


async def test_a_large_object_goes_up_in_blocks_once(account: str, tmp_path: Path) -> None:
    store = create_store(account)
    big = secrets.token_bytes(2 * BLOCK_BYTES + 17)
    await store.create("packs/big", big)
    (tmp_path / "file").write_bytes(big)
    for again in (b"x" * len(big), tmp_path / "file"):
        with pytest.raises(AlreadyExists):
            await store.create("packs/big", again)
    assert await store.get("packs/big") == big
    await store.create("packs/file", tmp_path / "file")
    assert (
        await store.get_range("packs/file", BLOCK_BYTES - 1, BLOCK_BYTES + 2)
        == big[BLOCK_BYTES - 1 : 2 * BLOCK_BYTES + 1]
    )


async def test_a_container_that_is_no_store_says_what_to_do(account: str) -> None:
    with pytest.raises(UsageError, match="init"):
        await open_store(account).list("")
    await create_store(account).create("packs/x", b"x")
    with pytest.raises(UsageError, match="init"):
        await open_store(account).get("packs/x")


async def test_a_container_that_is_gone_is_told_as_that(account: str, azurite_service: str) -> None:
    store = create_store(account)
    await store.create("packs/x", b"x")
    assert isinstance(store, AzureBlobStore)
    container = await store._client()
    await container.delete_container()
    for call in (store.get("packs/x"), store.create("packs/y", b"y"), store.replace("packs/x", b"", '"x"')):
        with pytest.raises(UsageError, match="container"):
            await call


async def test_a_wrong_key_is_refused_and_not_shown(
    account: str, azurite_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "A" * 86 + "=="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service.replace(KEY, wrong))
    with pytest.raises(RefusedError) as caught:
        await create_store(account).get("packs/x")
    assert wrong not in str(caught.value) and "403" in str(caught.value)


def test_credentials_of_another_account_are_told_before_anything_is_sent(account: str) -> None:
    with pytest.raises(UsageError, match="devstoreaccount1"):
        asyncio.run(create_store("azblob://other/container").get("packs/x"))


async def test_objects_carry_what_a_cdn_may_keep(account: str, azurite_service: str) -> None:
    store = create_store(account)
    assert isinstance(store, AzureBlobStore)
    kept = {}
    for path in ("packs/x", "metadata/timestamp.json", "bundles/m", "metadata/1.root.json"):
        await store.create(path, b"x")
        found = await (await store._client()).get_blob_client(path).get_blob_properties()
        kept[path] = str(found.content_settings.cache_control)
    assert kept["bundles/m"] == kept["metadata/timestamp.json"] == "no-cache"
    assert "immutable" in kept["packs/x"] and "immutable" in kept["metadata/1.root.json"]
    tag = (await store.get_tagged("bundles/m")).etag
    await store.replace("bundles/m", b"y", tag)
    found = await (await store._client()).get_blob_client("bundles/m").get_blob_properties()
    assert str(found.content_settings.cache_control) == "no-cache"


SIGNATURE = "sv=2024-01-01&sig=very-secret"


@pytest.mark.parametrize(
    ("status", "code", "expected", "requests"),
    [
        (403, "AuthenticationFailed", RefusedError, 1),
        (404, "BlobNotFound", ObjectNotFound, 1),
        (404, "ContainerNotFound", UsageError, 1),
        (409, "ContainerBeingDeleted", UnreachableError, 1),
        (412, "LeaseIdMissing", UnreachableError, 1),
        (429, "TooManyRequests", UnreachableError, 6),
        (503, "ServerBusy", UnreachableError, 2),
        (400, "InvalidHeaderValue", RefusedError, 1),
    ],
)
async def test_each_refusal_of_the_service_is_told_in_our_words(
    status: int, code: str, expected: type[ModelsyncError], requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("1.root.json"):
            return web.Response(headers={"ETag": '"1"', "Last-Modified": "Fri, 20 Nov 2026 12:00:00 GMT"})
        seen.append(request.path)
        return web.Response(status=status, headers={"x-ms-error-code": code, "Retry-After": "0"})

    async with _service(answer, monkeypatch) as store:
        with pytest.raises(ModelsyncError) as caught:
            await store.get("packs/x")
    assert type(caught.value) is expected and "secret" not in str(caught.value)
    assert len(seen) == requests


async def test_a_service_that_recovers_from_throttling_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [429, 503, 201]

    async def answer(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers={"ETag": '"1"', "Last-Modified": "Fri, 20 Nov 2026 12:00:00 GMT"})
        assert request.headers["If-None-Match"] == "*"
        return web.Response(
            status=answers.pop(0), headers={"ETag": '"2"', "Last-Modified": "Fri, 20 Nov 2026 12:00:00 GMT"}
        )

    async with _service(answer, monkeypatch) as store:
        await store.create("packs/x", b"x")
    assert answers == []


async def test_a_service_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "?" + SIGNATURE)
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError) as caught:
        await AzureBlobStore(BlobAddress("account", "box"), patience=QUICK).get("packs/x")
    assert "secret" not in str(caught.value)


class _service:  # a context manager, used as a function
    """A scripted blob service; yields a store that speaks to it with a SAS."""

    def __init__(self, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)  # type: ignore[arg-type]
        self._runner = web.AppRunner(application)
        self._monkeypatch = monkeypatch

    async def __aenter__(self) -> AzureBlobStore:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self._monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
        self._monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SIGNATURE)
        self._monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}")
        return AzureBlobStore(BlobAddress("account", "box"), patience=QUICK)

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def test_a_publishers_sas_is_enough_to_fill_a_container_that_is_there(
    account: str, azurite_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    await create_store(account).list("")
    box = account.rpartition("/")[2]
    sas = generate_container_sas(
        ACCOUNT,
        box,
        KEY,
        permission=ContainerSasPermissions(read=True, write=True, create=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    endpoint = azurite_service.partition("BlobEndpoint=")[2].rstrip(";")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint)
    store = create_store(account)
    await store.create("packs/x", b"x")
    async with aiohttp.ClientSession() as session, session.get(f"{endpoint}/{box}/packs/x") as answer:
        assert answer.status in (403, 404), "containers are private"


async def test_a_publication_into_a_full_container_costs_the_requests_of_one_into_an_empty_one(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the HTTP requests that leave this process."""
    sent = 0
    send = AioHttpTransport.send

    async def counted(self: AioHttpTransport, *arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        return await send(self, *arguments, **options)

    monkeypatch.setattr(AioHttpTransport, "send", counted)

    async def cost(name: str, models: int, versions: int) -> tuple[int, int]:
        """HTTP requests of a first publication and a second into a container that has so many others."""
        keys, filled = str(tmp_path / f"{name}-keys"), MemoryStore()
        await initialise(filled, keys)
        repository = await Repository.open(filled, keys)
        for number in range(models):
            others = [NewTarget(f"m-{number}", v, digest_of(f"m-{number}", v), 1000) for v in range(1, versions + 1)]
            await repository.add_targets(others)
        store = create_store(f"{account}{name}")
        await asyncio.gather(*(store.create(path, data) for path, data in filled.objects.items()))
        found, path = [], tmp_path / "model.bin"
        for end in (b"one", b"two"):
            path.write_bytes(bytes(range(256)) * 12 + end)
            before = sent
            await publish(store, keys, "new", path)
            found.append(sent - before)
        return found[0], found[1]

    empty, full = await cost("empty", 0, 0), await cost("full", 24, 10)
    assert full[0] <= 1.1 * empty[0] and full[1] <= 1.1 * empty[1], (empty, full)
