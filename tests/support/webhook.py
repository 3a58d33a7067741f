"""The Event Grid webhook as a process, and who delivers to it."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from azure.storage.blob.aio import ContainerClient

from tests.support.azurite import ACCOUNT
from tests.support.shop import Shop
from tests.support.waiting import within

KEY = "k" * 48


class Program:
    """A `modelsync` command that prints JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str) -> Program:
        return cls(
            await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("modelsync"),
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self) -> dict[str, Any]:
        """The next line of its output."""
        assert self.process.stdout is not None
        document: dict[str, Any] = json.loads(await within(self.process.stdout.readline()))
        return document

    async def complaint(self) -> str:
        """The next line of what it complains about."""
        assert self.process.stderr is not None
        return (await within(self.process.stderr.readline())).decode()

    async def stop(self) -> str:
        """End it in order; what it complained about."""
        if self.process.returncode is None:
            self.process.terminate()
        out, err = await self.process.communicate()
        assert self.process.returncode == 0 and out == b"", (out, err)
        return err.decode()


class Hook:
    """The webhook as a process, its upload container, and a shop with the online keys only."""

    def __init__(self, shop: Shop, program: Program, url: str, uploads: ContainerClient) -> None:
        self.shop, self.program, self.url, self.uploads = shop, program, url, uploads

    async def upload(self, path: str, data: bytes) -> dict[str, Any]:
        """Write a blob; the event that Event Grid would send."""
        answer = await self.uploads.upload_blob(path, data, overwrite=True)
        etag = (await answer.get_blob_properties()).etag
        return {
            "id": secrets.token_hex(16),
            "topic": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a",
            "subject": f"/blobServices/default/containers/{self.uploads.container_name}/blobs/{path}",
            "eventType": "Microsoft.Storage.BlobCreated",
            "eventTime": "2026-11-20T12:00:00Z",
            "data": {"api": "PutBlob", "eTag": etag.strip('"'), "url": "http://169.254.169.254/forged"},
            "dataVersion": "",
            "metadataVersion": "1",
        }

    async def post(self, body: Any, key: str | None = KEY, token: str | None = None) -> tuple[int, Any]:
        """Deliver."""
        headers = {} if key is None else {"X-Modelsync-Key": key}
        headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, data=data, headers=headers) as answer,
        ):
            return answer.status, await answer.json()

    async def versions(self) -> list[int]:
        """What is published."""
        return sorted((await (await self.shop.repository()).catalogue()).model("anomaly").versions)


@asynccontextmanager
async def hooked(root: Path, azurite: str, *senders: str) -> AsyncIterator[Hook]:
    """A webhook over a new upload container; `senders`: the options that say who may deliver."""
    shop = await Shop.open(root)
    await shop.publish_bytes("anomaly", b"first")
    shutil.move(root / "keys" / "offline", root / "safe")
    box = f"uploads{secrets.token_hex(6)}"
    async with ContainerClient.from_connection_string(azurite, box) as uploads:
        await uploads.create_container()
        program = await Program.start(
            *("webhook", str(shop.path), "--keys", str(shop.keys), "--uploads", f"azblob://{ACCOUNT}/{box}"),
            *("--model", "anomaly", *senders),
        )
        yield Hook(shop, program, (await program.line())["url"], uploads)
        if program.process.returncode is None:
            program.process.kill()
            await program.process.communicate()
