"""An OpenID provider that signs whatever it is told to: honest tokens, and forged ones."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from yarl import URL


@dataclass
class Forger:
    """An OpenID provider whose tokens are what `forge` makes of honest claims."""

    url: str = ""
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    forge: Callable[[dict[str, Any], Forger], str] = lambda claims, forger: forger.signed(claims)
    nonces: dict[str, str] = field(default_factory=dict)
    basic: str = ""

    def signed(self, claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", kid: str = "k1") -> str:
        return jwt.encode(claims, key or self.key, algorithm=algorithm, headers={"kid": kid})

    async def describe(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
            }
        )

    async def authorize(self, request: web.Request) -> web.Response:
        query = request.query
        assert query["code_challenge_method"] == "S256" and query["response_type"] == "code"
        self.nonces["code"] = query["nonce"]
        back = URL(query["redirect_uri"]).update_query(code="code", state=query["state"], iss=self.url)
        return web.Response(status=303, headers={"Location": str(back)})

    async def token(self, request: web.Request) -> web.Response:
        self.basic = request.headers.get("Authorization", "")
        now = int(time.time())
        claims = {"iss": self.url, "aud": "modelsync", "sub": "1", "iat": now, "exp": now + 60,
                  "email": "ada@example.com", "email_verified": True, "nonce": self.nonces["code"]}  # fmt: skip
        return web.json_response({"id_token": self.forge(claims, self), "access_token": "a"})

    async def keys(self, request: web.Request) -> web.Response:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return web.json_response({"keys": [{"kty": "strange", "kid": "k0"}, public | {"kid": "k1", "use": "sig"}]})


@asynccontextmanager
async def serving() -> AsyncIterator[Forger]:
    """One that answers on loopback."""
    made = Forger()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.describe)
    app.router.add_get("/authorize", made.authorize)
    app.router.add_post("/token", made.token)
    app.router.add_get("/keys", made.keys)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
