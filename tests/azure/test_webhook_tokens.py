"""Event Grid delivers with tokens of Entra ID: who is believed, and who is not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from modelsync_server.triggers.webhook import EVENT_GRID
from tests.support.openid import Forger, serving
from tests.support.webhook import KEY, Hook, Program, hooked

AUDIENCE = "api://modelsync-webhook"


@pytest.fixture
async def issuer() -> AsyncIterator[Forger]:
    async with serving() as made:
        yield made


def _claims(issuer: Forger) -> dict[str, Any]:
    """As Entra ID writes them for Event Grid (an access token, version 1)."""
    now = int(time.time())
    return {"iss": issuer.url, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 3600, "appid": EVENT_GRID,
            "sub": "5c3a", "roles": ["AzureEventGridSecureWebhookSubscriber"]}  # fmt: skip


FORGED: dict[str, Callable[[dict[str, Any], Forger], str | None]] = {
    "no token": lambda c, f: None,
    "nonsense": lambda c, f: "a.b.c",
    "another's key": lambda c, f: f.signed(c, rsa.generate_private_key(65537, 2048)),
    "for somebody else": lambda c, f: f.signed(c | {"aud": "api://other"}),
    "another tenant": lambda c, f: f.signed(c | {"iss": "https://sts.windows.net/other/"}),
    "another application": lambda c, f: f.signed(c | {"appid": "00000000-0000-0000-0000-000000000000"}),
    "no application": lambda c, f: f.signed({k: v for k, v in c.items() if k != "appid"}),
    "too old": lambda c, f: f.signed(c | {"iat": 1, "nbf": 1, "exp": 2}),
}


async def _published(hook: Hook, issuer: Forger, key: str | None) -> None:
    event = await hook.upload("anomaly/model.bin", b"second")
    for what, forge in FORGED.items():
        assert (await hook.post([event], key, forge(_claims(issuer), issuer)))[0] == 401, what
    assert await hook.versions() == [1]
    version_2 = {k: v for k, v in _claims(issuer).items() if k != "appid"} | {"azp": EVENT_GRID}
    assert (await hook.post([event], key, issuer.signed(version_2)))[0] == 200
    assert (await hook.program.line())["version"] == 2


async def test_a_token_instead_of_a_key(
    tmp_path: Path, azurite_service: str, issuer: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    options = ("--token-issuer", issuer.url, "--token-audience", AUDIENCE, "--memory", str(tmp_path / "dealt-with"))
    async with hooked(tmp_path, azurite_service, *options) as hook:
        await _published(hook, issuer, None)


async def test_a_token_and_a_key_are_both_asked_for(
    tmp_path: Path, azurite_service: str, issuer: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite_service)
    (tmp_path / "key").write_text(KEY)
    options = ("--key-file", str(tmp_path / "key"), "--token-issuer", issuer.url, "--token-audience", AUDIENCE)
    async with hooked(tmp_path, azurite_service, *options) as hook:
        event = await hook.upload("anomaly/model.bin", b"second")
        assert (await hook.post([event], None, issuer.signed(_claims(issuer))))[0] == 401
        await _published(hook, issuer, KEY)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "--key-file or --token-issuer"),
        (("--token-issuer", "https://sts.windows.net/t/", "--memory", "m"), "--token-audience"),
        (("--token-issuer", "http://sts.windows.net/t/", "--memory", "m", "--token-audience", "a"), "https only"),
        (("--token-issuer", "https://sts.windows.net/t/", "--token-audience", "a"), "--memory"),
    ],
)
async def test_a_webhook_for_anybody_does_not_start(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    program = await Program.start(
        "webhook", str(tmp_path), "--uploads", "azblob://a/uploads", "--model", "anomaly", *options
    )
    _, err = await program.process.communicate()
    assert program.process.returncode == 2 and sentence in err.decode()
