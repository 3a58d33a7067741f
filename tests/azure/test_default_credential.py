"""`modelsync` signs in by azure-identity's DefaultAzureCredential, driven for real: managed and workload identity.

The token endpoints are stand-ins that answer as Azure documents; Azurite, with OAuth and TLS, looks at the tokens.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from azure.storage.blob.aio import ContainerClient

from tests.support.azurite import ACCOUNT, KEY, azurite_with_entra
from tests.support.certificates import Authority

TENANT = "7d5f0c1e-3a5b-4c5d-9a2b-1f2e3d4c5b6a"
STORAGE = "https://storage.azure.com"
COMMAND = Path(sys.executable).with_name("modelsync")


class TokenEndpoint:
    """Gives tokens for storage to who proves himself; counts by how."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.audience = STORAGE

    def _token(self) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": f"https://sts.windows.net/{TENANT}/", "aud": self.audience, "iat": now, "nbf": now - 5,
                  "exp": now + 3600, "oid": "publisher", "sub": "publisher", "tid": TENANT, "ver": "1.0"}  # fmt: skip
        token = jwt.encode(claims, "not looked at" * 4, algorithm="HS256")
        return {"access_token": token, "token_type": "Bearer", "expires_in": 3600, "expires_on": str(now + 3600)}

    async def managed(self, request: web.Request) -> web.Response:
        """App Service's and Container Apps' form (api-version 2019-08-01)."""
        if request.headers.get("X-IDENTITY-HEADER") != "proof":
            return web.json_response({"error": "unauthorized"}, status=401)
        assert request.query["resource"] == STORAGE and request.query["api-version"] == "2019-08-01"
        self.asked.append("managed")
        return web.json_response(self._token() | {"resource": STORAGE})

    async def workload(self, request: web.Request) -> web.Response:
        """Entra ID's token endpoint, with a federated token as assertion (Kubernetes)."""
        form = await request.post()
        if form["client_assertion"] != "federated" or form["client_id"] != "app":
            return web.json_response({"error": "invalid_client", "error_description": "AADSTS70021"}, status=401)
        assert form["scope"] == f"{STORAGE}/.default" and form["grant_type"] == "client_credentials"
        self.asked.append("workload")
        return web.json_response(self._token())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
async def endpoint(authority: Authority) -> AsyncIterator[tuple[TokenEndpoint, str, str]]:
    """It, its address by http (managed identity is asked so) and by https (Entra ID is)."""
    made = TokenEndpoint()
    app = web.Application()
    app.router.add_get("/msi/token", made.managed)
    app.router.add_post(f"/{TENANT}/oauth2/v2.0/token", made.workload)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server()).start()
    plain, secure = (address[1] for address in runner.addresses)
    yield made, f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}"
    await runner.cleanup()


async def _modelsync(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AZURE_", "IDENTITY_", "MSI_"))}
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env={**kept, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["managed", "workload"])
async def test_a_publisher_signs_in_by_the_identity_that_it_has(
    tmp_path: Path,
    authority: Authority,
    endpoint: tuple[TokenEndpoint, str, str],
    kind: str,
) -> None:
    tokens, plain, secure = endpoint
    (tmp_path / "federated").write_text("federated")
    (tmp_path / "model.bin").write_bytes(b"model" * 100)
    with azurite_with_entra(authority.file()) as blobs:
        connection = f"DefaultEndpointsProtocol=https;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={blobs};"
        async with ContainerClient.from_connection_string(connection, "models", connection_verify=False) as container:
            await container.create_container()
        environment = {"AZURE_STORAGE_SERVICE_ENDPOINT": blobs, "SSL_CERT_FILE": str(authority.path)}
        environment |= {
            "managed": {"IDENTITY_ENDPOINT": f"{plain}/msi/token", "IDENTITY_HEADER": "proof"},
            "workload": {"AZURE_AUTHORITY_HOST": secure, "AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "app",
                         "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "federated")},
        }[kind]  # fmt: skip
        store, keys = f"azblob://{ACCOUNT}/models", str(tmp_path / "keys")
        code, out = await _modelsync(environment, "init", store, "--keys", keys)
        assert code == 0, out
        code, out = await _modelsync(environment, "publish", store, "m", str(tmp_path / "model.bin"), "--keys", keys)
        assert code == 0 and kind in tokens.asked, out
        code, out = await _modelsync(environment, "list", store)
        assert code == 0 and "m" in out
        # A token for something else opens nothing, and that is one sentence.
        tokens.audience = "https://iothubs.azure.net"
        code, out = await _modelsync(environment, "list", store)
        assert code == 3 and len(out.splitlines()) == 1, out
        # Nobody who can't prove himself gets one.
        wrong = {**environment, "IDENTITY_HEADER": "guessed", "AZURE_CLIENT_ID": "other"}
        code, out = await _modelsync(wrong, "list", store)
        assert code == 3 and len(out.splitlines()) == 1 and "no identity of this machine" in out, out
