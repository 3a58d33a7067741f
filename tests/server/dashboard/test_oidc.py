"""Signing in by an OpenID provider: a real one (oidc-provider from npm), and one that forges tokens."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yarl import URL

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout.record import State
from modelsync_server.signin.access import Access
from modelsync_server.signin.oidc import Provider, Settings
from modelsync_server.signin.tokens import Issuer
from tests.server.dashboard.conftest import Page, text, token_of
from tests.server.rollout.conftest import MODEL
from tests.support.addresses import free_port
from tests.support.npm import installed
from tests.support.openid import Forger, serving

VERSION = "8.8.1"
"""The last that runs on Debian's node."""
SECRET = "a secret with % and :"
BROWSER = {"Accept": "text/html"}


def arranged(page: Page, issuer: str, secret: str | None = SECRET, **rules: Any) -> None:
    """Have the page sign people in by `issuer`."""
    access = page.rule(provider=True, operator="", site=page.url, **rules)
    page.dashboard._provider = Provider(Settings(issuer, "modelsync", secret), access)


async def test_people_sign_in_by_a_real_provider_and_have_their_rights(page: Page) -> None:
    main = installed("oidc-provider", VERSION, "lib/index.js")
    node, port = shutil.which("node"), free_port()
    assert node is not None
    script = Path(__file__).parents[2] / "support" / "oidc_provider.mjs"
    process = await asyncio.create_subprocess_exec(
        node, str(script), str(main), str(port), f"{page.url}/signin/callback", SECRET,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"ready" not in await process.stdout.readline():
                pass
        arranged(page, f"http://127.0.0.1:{port}", readers=frozenset({"bob@example.com"}),
                 actors=frozenset({"ada@example.com"}))  # fmt: skip
        async with session(page) as client:
            assert "sign in" in await text(client, "/?format=json", 401), "a program is told, not sent elsewhere"
            body = await signed_in(client, f"/rollout/{MODEL}?said=x", "ada")
            assert "ada@example.com" in body and MODEL in body, "back where it was asked for"
            form = {"act": "pause", "model": MODEL, "token": token_of(body)}
            async with client.post("/act", data=form) as response:
                assert response.status == 200
            found = (await page.world.status()).record
            assert found.state is State.PAUSED and "ada@example.com" in found.why, "it is in the rollout's labels"
            assert json.loads(page.audit.read_text().splitlines()[0])["who"] == "ada@example.com"
            async with client.post("/signout", data={"token": token_of(body)}) as response:
                assert response.status == 200
            await text(client, "/", 401)
        async with session(page) as client:
            body = await signed_in(client, f"/rollout/{MODEL}", "bob")
            assert "looking only" in body and 'action="/act"' not in body
            async with client.post("/act", data={"act": "resume", "model": MODEL, "token": token_of(body)}) as response:
                assert response.status == 403
        async with session(page) as client:
            assert "may not look" in await signed_in(client, "/", "eve", 403)
    finally:
        process.kill()
        await process.wait()


def session(page: Page) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(page.url, cookie_jar=aiohttp.CookieJar(unsafe=True))


async def signed_in(client: aiohttp.ClientSession, path: str, name: str, status: int = 200) -> str:
    """Follow a page to the provider, fill in its forms (sign in, agree), and come back."""
    async with client.get(path, headers=BROWSER) as response:
        body, url, answered = await response.text(), response.url, response.status
    for _ in range(3):
        action = re.search(r'<form[^>]*action="([^"]+)"', body)
        if "/interaction/" not in str(url) or action is None:
            break
        fields = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', body))
        fields |= {"login": name, "password": "any"} if 'name="login"' in body else {}
        async with client.post(url.join(URL(action[1])), data=fields, headers=BROWSER) as response:
            body, url, answered = await response.text(), response.url, response.status
    assert answered == status, body
    return body


# A provider that does what it should not


@pytest.fixture
async def forger() -> AsyncIterator[Forger]:
    async with serving() as made:
        yield made


def _public_pem(forger: Forger) -> bytes:
    return forger.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hmac(claims: dict[str, Any], forger: Forger) -> str:
    """The classic: signed with the public key as if it were a shared secret."""
    import hashlib
    import hmac

    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in
             ({"alg": "HS256", "kid": "k1"}, claims)]  # fmt: skip
    signature = hmac.digest(_public_pem(forger), b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


FORGERIES: dict[str, Callable[[dict[str, Any], Forger], str]] = {
    "another's key": lambda c, f: f.signed(c, rsa.generate_private_key(65537, 2048)),
    "a key that it does not show": lambda c, f: f.signed(c, kid="k9"),
    "no signature": lambda c, f: jwt.encode(c, "", algorithm="none"),
    "the public key as a secret": _hmac,
    "another sign-in": lambda c, f: f.signed(c | {"nonce": "x"}),
    "another client": lambda c, f: f.signed(c | {"aud": "other"}),
    "another party": lambda c, f: f.signed(c | {"azp": "other"}),
    "another issuer": lambda c, f: f.signed(c | {"iss": "https://elsewhere.example"}),
    "too old": lambda c, f: f.signed(c | {"iat": 1, "exp": 2}),
    "not verified": lambda c, f: f.signed(c | {"email_verified": False}),
    "not verified, in words": lambda c, f: f.signed(c | {"email_verified": "false"}),
    "no name": lambda c, f: f.signed({k: v for k, v in c.items() if k != "email"}),
    "a name on two lines": lambda c, f: f.signed(c | {"email": "ada\nbob"}),
    "no token": lambda c, f: "nonsense",
}


async def test_a_forged_token_opens_no_session(page: Page, forger: Forger) -> None:
    arranged(page, forger.url, actors=frozenset({"*"}))
    for what, forge in FORGERIES.items():
        forger.forge = forge
        async with session(page) as client:
            async with client.get("/", headers=BROWSER) as response:
                assert response.status == 403, what
            await text(client, "/", 401)
    forger.forge = Forger.forge
    async with session(page) as client:
        assert "ada@example.com" in await text(client, "/", headers=BROWSER)
    raw = base64.b64decode(forger.basic.removeprefix("Basic ")).decode()
    assert raw == "modelsync:a+secret+with+%25+and+%3A", "both halves are encoded before they are joined (RFC 6749)"


async def test_a_sign_in_that_was_not_begun_here_is_refused(page: Page, forger: Forger) -> None:
    arranged(page, forger.url)
    async with session(page) as client:
        await text(client, "/signin/callback?code=code&state=guessed", 403)
        async with client.get("/", headers=BROWSER, allow_redirects=False) as response:
            assert response.status == 303 and response.headers["Location"].startswith(forger.url)
        await text(client, "/signin/callback?code=code&state=guessed", 403)
        async with client.get(f"{page.url}//evil.example.com/", headers=BROWSER) as response:
            assert response.url.host == "127.0.0.1", "after it a browser is nowhere but here"
        async with client.get("/", headers={**BROWSER, "Host": "evil.example.com"}) as response:
            assert response.status == 421


async def test_a_provider_that_is_away_is_said(page: Page) -> None:
    arranged(page, f"http://127.0.0.1:{free_port()}")
    async with session(page) as client:
        assert "provider" in await text(client, "/", 503, headers=BROWSER)


def test_a_session_ends_and_belongs_to_one_purpose() -> None:
    now = 1000.0
    access = Access(loopback=True, clock=lambda: now)
    sealed = access.sealed("session", {"name": "ada"}, 60)
    assert access.unsealed("session", sealed)["name"] == "ada"
    assert access.unsealed("signin", sealed) == {}, "what was sealed for something else is nothing"
    assert access.unsealed("session", sealed[:-1] + ("0" if sealed[-1] != "0" else "1")) == {}
    assert access.unsealed("session", "") == {} and access.unsealed("session", "é.ü") == {}
    now = 1061.0
    assert access.unsealed("session", sealed) == {}


def test_what_would_be_unsafe_is_refused_at_the_start() -> None:
    for site in ("", "fleet.example.com", "http://fleet.example.com", "https://fleet.example.com/x"):
        with pytest.raises(UsageError):
            Access(loopback=False, provider=True, site=site)
    assert Access(loopback=False, provider=True, site="https://fleet.example.com").secure
    with pytest.raises(UsageError, match="--actor"):
        Access(loopback=True, provider=True, site="https://fleet.example.com", operator="ada")
    for issuer in ("login", "http://login.example.com", "https://login.example.com?x=1"):
        with pytest.raises(UsageError):
            Issuer(issuer)
