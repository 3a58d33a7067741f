"""Checks tokens that an OpenID provider signs: its description, its keys, PyJWT. It opens no session.

Source: OpenID Connect Discovery 1.0, RFC 7517 (keys), RFC 8725 (what to guard against).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
from yarl import URL

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError

_TIMEOUT = aiohttp.ClientTimeout(total=15)
_KEYS_SECONDS = 3600.0
_KEYS_AGAIN_SECONDS = 30.0
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric only: a client's secret must not be able to sign."""
_LEEWAY_SECONDS = 60


class Issuer:
    """One provider. Holds no connection between calls, its keys for an hour."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`url`: what the provider calls itself, to the letter. UsageError if it can't be one."""
        address = URL(url)
        if address.scheme not in ("http", "https") or not address.host or address.query_string or address.fragment:
            raise UsageError(f"{url!r:.80} is no issuer's address, such as https://login.example.com.")
        if address.scheme == "http" and address.host not in ("localhost", "127.0.0.1", "::1"):
            raise UsageError("an issuer is believed over https only.")
        self.url, self._clock = url, clock
        self._about: dict[str, Any] = {}
        self._keys: tuple[dict[str, jwt.PyJWK], float] = {}, float("-inf")

    async def endpoint(self, name: str) -> str:
        """An address of the provider's, such as `token_endpoint`, of its own scheme; UnreachableError without one."""
        found = str((await self.described()).get(name, ""))
        if URL(found).scheme != URL(self.url).scheme or not URL(found).host:
            raise UnreachableError(f"the provider's description has no usable {name}.")
        return found

    async def described(self) -> dict[str, Any]:
        """Its discovery document. UsageError if it goes by another name, UnreachableError if it does not answer."""
        if not self._about:
            found = await fetched(self.url.rstrip("/") + "/.well-known/openid-configuration")
            if found.get("issuer") != self.url:
                raise UsageError(f"the provider calls itself {found.get('issuer')!r:.80}: give that as the issuer.")
            self._about = found
        return self._about

    async def claims(self, token: str, audience: str, required: tuple[str, ...] = ("sub",)) -> dict[str, Any]:
        """What a token says that this provider signed for `audience` and that is in force; RefusedError otherwise."""
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in _ALGORITHMS:
                raise RefusedError("the provider's token is signed in a way that is not accepted.")
            key = await self._key(str(head.get("kid", "")))
            found: dict[str, Any] = jwt.decode(
                token, key, algorithms=[str(head["alg"])], audience=audience, issuer=self.url,
                leeway=_LEEWAY_SECONDS, options={"require": ["exp", "iat", "iss", "aud", *required]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise RefusedError(f"the provider's token is not believed: {error!s:.100}") from error
        return found

    async def _key(self, name: str) -> jwt.PyJWK:
        """The provider's key of that name. For an unknown one they are fetched anew, but not at anybody's will."""
        keys, at = self._keys
        age = self._clock() - at
        if age > _KEYS_SECONDS or (name not in keys and age > _KEYS_AGAIN_SECONDS):
            found = await fetched(await self.endpoint("jwks_uri"))
            listed = found.get("keys")
            keys = {}
            for each in listed if isinstance(listed, list) else []:
                try:
                    keys[str(each.get("kid", ""))] = jwt.PyJWK.from_dict(each)
                except (jwt.PyJWTError, AttributeError, TypeError):
                    continue  # of a kind that is not known here
            self._keys = keys, self._clock()
        if name not in keys:
            raise RefusedError("the provider's token is signed by a key that it does not show.")
        return keys[name]


async def fetched(
    url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """A JSON object of a provider's, by GET or by POST of `form`; UnreachableError where there is none."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                "GET" if form is None else "POST", url, data=form, headers=headers, allow_redirects=False
            ) as response,
        ):
            raw = await response.read()
            if response.status != 200:
                raise UnreachableError(f"the provider answered {response.status}: try again.")
            found = json.loads(raw)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise UnreachableError(f"the provider can't be asked ({error!s:.100}): try again.") from error
    if not isinstance(found, dict):
        raise UnreachableError("the provider's answer is no JSON object.")
    return found
