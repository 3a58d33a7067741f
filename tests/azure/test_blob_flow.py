"""The main job with an Azure Blob container as store: publish with the command, follow the twin, read with a SAS."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from modelsync_server.store import device_access
from tests.support.azure_world import NAME, Cloud, cloud
from tests.support.azurite import ACCOUNT
from tests.support.relay import Relay
from tests.support.waiting import until

SERVER = Path(sys.executable).with_name("modelsync")
DAEMON = Path(sys.executable).with_name("modelsyncd")


class World:
    """A cloud, a container's address, and a relay before the blob service, through which the device reads."""

    def __init__(self, made: Cloud, relay: Relay, store: str) -> None:
        self.cloud, self.relay, self.store = made, relay, store
        self.keys = made.root / "keys"
        self.trust = self.keys / "root.json"

    @property
    def origin(self) -> str:
        """The container's URL, without any secret."""
        return f"http://127.0.0.1:{self.relay.port}/{ACCOUNT}/{self.store.rpartition('/')[2]}"

    async def command(self, *arguments: str, program: Path = SERVER, code: int = 0) -> str:
        """Run a command as a user does; its standard output."""
        child = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await child.communicate()
        assert child.returncode == code, err.decode()
        assert "Unclosed" not in err.decode() and "Traceback" not in err.decode()
        return out.decode() if code == 0 else err.decode()

    async def publish(self, data: bytes) -> dict[str, Any]:
        """Publish a version with the command."""
        path = self.cloud.root / "model.bin"
        path.write_bytes(data)
        text = await self.command("publish", self.store, NAME, str(path), "--keys", str(self.keys), "--json")
        document: dict[str, Any] = json.loads(text)
        return document

    async def sas(self, lifetime: timedelta) -> str:
        """A read-only SAS."""
        return (await device_access(self.store, lifetime)).sas


@pytest.fixture
async def world(
    tmp_path: Path, worker_id: str, azurite_service: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    endpoint = urlsplit(azurite_service.partition("BlobEndpoint=")[2].rstrip(";"))
    assert endpoint.port is not None
    async with cloud(tmp_path, worker_id) as made, Relay("127.0.0.1", endpoint.port) as relay:
        world = World(made, relay, f"azblob://{ACCOUNT}/c{secrets.token_hex(8)}")
        await world.command("init", world.store, "--keys", str(world.keys), "--json")
        yield world


async def test_the_main_job_runs_from_a_private_container(world: World) -> None:
    body = random.randbytes(300_000)
    await world.publish(body)
    hub = ("--state", str(world.cloud.root / "hub"))
    await world.cloud.start(world.trust)
    world.cloud.wish(1, world.origin)
    await world.cloud.until(lambda: world.cloud.model().get("state") == "waiting", "a refusal without a secret")

    answer = json.loads(await world.command("sas", world.store, "--hours", "1", "--device", "pi", *hub))
    assert urlsplit(answer["origin"]).path == urlsplit(world.origin).path and "sig=" not in json.dumps(answer)
    await world.cloud.serves(1)

    published = await world.publish(body[:-100] + b"x" * 100)
    assert published["updates"][0]["bytes"] < 5_000
    world.cloud.wish(2)
    await world.cloud.serves(2)
    assert world.cloud.model()["bytes"] == published["updates"][0]["bytes"], "as predicted"
    current = world.cloud.data.model_dir(NAME) / "current" / "model.bin"
    assert current.read_bytes() == body[:-100] + b"x" * 100

    listed = json.loads(await world.command("list", world.store, "--json"))
    assert [item["version"] for item in listed["models"][0]["versions"]] == [1, 2]
    assert json.loads(await world.command("verify", world.store, "--json"))["ok"]
    priced = await world.command("price", world.store, NAME, "--from", "1", "--to", "2", "--json")
    assert json.loads(priced)["bytes"] == published["updates"][0]["bytes"]
    await world.command("refresh", world.store, "--keys", str(world.keys))

    secret = (world.cloud.data.root / "origin.sas").read_text()
    assert (world.cloud.data.root / "origin.sas").stat().st_mode & 0o777 == 0o600
    signature = secret.partition("sig=")[2].partition("&")[0]
    assert signature and signature not in world.cloud.log.read_text()
    assert signature not in json.dumps([world.cloud.hub.reported("pi"), world.cloud.hub.desired("pi")])
    assert signature.encode() not in (world.cloud.data.root / "state.db").read_bytes()


async def test_a_sas_that_expires_in_mid_download_is_renewed_and_the_download_resumed(world: World) -> None:
    body = random.randbytes(4_000_000)
    published = await world.publish(body)
    await world.cloud.start(
        world.trust, f'connection_string = "{world.cloud.hub.add_device("pi")}"', "stall_seconds = 3"
    )
    await world.cloud.until(lambda: world.cloud.model() or world.cloud.hub.reported("pi").get("modelsync"), "a report")
    world.relay.rate = 600_000
    before = world.relay.counts()

    def refused() -> bool:
        return bool(world.cloud.model().get("error", {}).get("code") == "access")

    def came() -> bool:
        return (world.relay.counts() - before).down > 1_500_000

    for seconds in (6, 24, 60):  # a busy machine may take longer to begin than the first is good for
        lifetime = timedelta(seconds=seconds)
        expired = asyncio.get_running_loop().time() + seconds + 1
        answer = await world.cloud.invoke("secret", {"sas": await world.sas(lifetime)})
        assert answer.status == 200 and answer.payload["expires"].endswith("Z")
        world.cloud.wish(1, world.origin)
        await world.cloud.until(lambda: came() or refused(), "some of the download")
        if came():
            break
    world.relay.rate = 30_000  # still under way when the SAS expires
    await asyncio.sleep(expired - asyncio.get_running_loop().time())
    world.relay.cut()
    await world.cloud.until(refused, "the refusal")
    world.relay.rate = None
    middle = (world.relay.counts() - before).down
    assert (await world.cloud.invoke("secret", {"sas": await world.sas(timedelta(hours=1))})).status == 200
    await world.cloud.serves(1)
    assert (world.cloud.data.model_dir(NAME) / "current" / "model.bin").read_bytes() == body
    again = (world.relay.counts() - before).down - published["install_bytes"]
    assert again < 600_000, f"{again} bytes more than once, of which {middle} came before the renewal"


async def test_a_mounted_secret_that_is_renewed_in_mid_download_is_not_even_noticed(world: World) -> None:
    body = random.randbytes(3_000_000)
    await world.publish(body)
    mounted = world.cloud.root / "secret"
    world.relay.rate = 300_000
    before = world.relay.counts()
    for seconds in (6, 24, 60):  # a busy machine may take longer to begin than the first is good for
        mounted.write_text(await world.sas(timedelta(seconds=seconds)))
        expired = asyncio.get_running_loop().time() + seconds + 1
        pull = asyncio.create_task(
            world.command(
                *("pull", NAME, "--origin", world.origin, "--data", str(world.cloud.root / "d"), "--json"),
                *("--trust", str(world.trust), "--sas-file", str(mounted)),
                program=DAEMON,
            )
        )
        await until(lambda pull=pull: pull.done() or (world.relay.counts() - before).down > 900_000)  # type: ignore[misc]
        if not pull.done():
            break
        pull.exception()
    world.relay.rate = 30_000
    mounted.write_text("?" + await world.sas(timedelta(hours=1)) + "\n")
    await asyncio.sleep(expired - asyncio.get_running_loop().time())
    world.relay.cut()
    world.relay.rate = None
    document = json.loads(await pull)
    assert document["state"] == "active" and Path(document["path"], "model.bin").read_bytes() == body


async def test_a_secret_that_is_none_is_refused_without_being_repeated(world: World) -> None:
    await world.cloud.start(world.trust)
    await world.cloud.until(lambda: world.cloud.hub.reported("pi").get("modelsync"), "a report")
    for payload in ({"sas": "two words"}, {"sas": 7}, {}, None, {"sas": "x" * 5000}):
        answer = await world.cloud.invoke("secret", payload)
        assert answer.status == 400 and "two words" not in json.dumps(answer.payload)
    assert (await world.cloud.invoke("secret", {"sas": None})).payload == {"expires": None}
