"""Signs people in by an OpenID provider: the authorization code flow with PKCE. Tokens are checked by PyJWT.

Source: OpenID Connect Core 1.0 §3.1, RFC 7636 (PKCE), RFC 9700 (what to guard against). Of the provider nothing is
kept but its addresses and keys; the session afterwards is Access's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import jwt
from aiohttp import web
from yarl import URL

from modelsync_protocol.errors import UnreachableError, UsageError
from modelsync_server.dashboard.access import Access, usable_name

CALLBACK = "/signin/callback"
_COOKIE = "modelsync_signin"
_FLOW_SECONDS = 600
_TIMEOUT = aiohttp.ClientTimeout(total=15)
_KEYS_SECONDS = 3600.0
_KEYS_AGAIN_SECONDS = 30.0
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric only: a client's secret must not be able to sign."""
_LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Settings:
    """`claim` of the ID token is a person's name here. `secret` is None for a public client."""

    issuer: str
    client: str
    secret: str | None = None
    claim: str = "email"

    def __post_init__(self) -> None:
        url = URL(self.issuer)
        if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
            raise UsageError(f"{self.issuer!r:.80} is no issuer's address, such as https://login.example.com.")
        if url.scheme == "http" and url.host not in ("localhost", "127.0.0.1", "::1"):
            raise UsageError("an issuer is believed over https only.")


class Provider:
    """One provider. Holds no connection between calls."""

    def __init__(self, settings: Settings, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._access, self._clock = settings, access, clock
        self._about: dict[str, Any] = {}
        self._keys: tuple[dict[str, jwt.PyJWK], float] = {}, float("-inf")

    @property
    def _redirect(self) -> str:
        return self._access.site.rstrip("/") + CALLBACK

    async def begin(self, back: str) -> web.Response:
        """Send a browser to the provider. `back`: the page that it asked for."""
        about = await self._described()
        flow = {"state": secrets.token_urlsafe(24), "nonce": secrets.token_urlsafe(24),
                "verifier": secrets.token_urlsafe(48), "back": back[:2000]}  # fmt: skip
        challenge = base64.urlsafe_b64encode(hashlib.sha256(flow["verifier"].encode()).digest()).decode().rstrip("=")
        scope = "openid email profile" if self._settings.claim in ("email", "preferred_username", "name") else "openid"
        target = URL(str(about["authorization_endpoint"])).update_query(
            response_type="code", client_id=self._settings.client, redirect_uri=self._redirect, scope=scope,
            state=flow["state"], nonce=flow["nonce"], code_challenge=challenge, code_challenge_method="S256",
        )  # fmt: skip
        response = web.Response(status=303, headers={"Location": str(target)})
        sealed = self._access.sealed("signin", flow, _FLOW_SECONDS)
        response.set_cookie(
            _COOKIE, sealed, max_age=_FLOW_SECONDS, httponly=True, secure=self._access.secure, samesite="Lax",
            path="/signin",
        )  # fmt: skip
        return response

    async def finish(self, request: web.Request) -> web.Response:
        """The browser comes back: exchange the code, check the token, open a session."""
        flow = self._access.unsealed("signin", request.cookies.get(_COOKIE, ""))
        given = request.query.get("state", "")
        if not flow or not hmac.compare_digest(str(flow["state"]).encode(), given.encode()):
            raise web.HTTPForbidden(text="this sign-in was not begun here, or took too long: open the page again.")
        if request.query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise web.HTTPForbidden(text="another provider answered the sign-in.")
        if "error" in request.query:
            raise web.HTTPForbidden(text=f"the provider refused the sign-in: {request.query['error']:.100}")
        tokens = await self._exchanged(request.query.get("code", ""), str(flow["verifier"]))
        claims = await self._claims(str(tokens.get("id_token", "")))
        if self._settings.claim not in claims:
            claims = await self._with_user_info(claims, str(tokens.get("access_token", "")))
        name = self.name_in(claims, str(flow["nonce"]))
        response = web.Response(status=303, headers={"Location": str(flow["back"])})
        self._access.open_session(response, name)
        response.del_cookie(_COOKIE, path="/signin")
        return response

    def name_in(self, claims: Mapping[str, Any], nonce: str) -> str:
        """Who a checked token is about; raises 403."""
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise web.HTTPForbidden(text="the provider's token is not of this sign-in.")
        party = claims.get("azp", self._settings.client)
        if party != self._settings.client:
            raise web.HTTPForbidden(text="the provider's token is for another client.")
        claim = self._settings.claim
        name = claims.get(claim)
        if claim == "email" and claims.get("email_verified") not in (True, "true"):
            raise web.HTTPForbidden(
                text="the provider does not say that it verified your address: choose another claim."
            )
        if not isinstance(name, str) or not usable_name(name):
            raise web.HTTPForbidden(text=f"the provider's token has no usable {claim}: choose another claim.")
        return name

    async def _described(self) -> dict[str, Any]:
        if not self._about:
            found = await self._fetched(self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if found.get("issuer") != self._settings.issuer:
                raise UsageError(f"the provider calls itself {found.get('issuer')!r:.80}: give that as the issuer.")
            for key in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                url = URL(str(found.get(key, "")))
                if url.scheme != URL(self._settings.issuer).scheme or not url.host:
                    raise UnreachableError(f"the provider's description has no usable {key}.")
            self._about = found
        return self._about

    async def _exchanged(self, code: str, verifier: str) -> dict[str, Any]:
        about = await self._described()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier,
        }
        headers = {}
        methods = about.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._settings.secret is not None and "client_secret_basic" in methods:
            # RFC 6749 §2.3.1: both halves are form-encoded first.
            pair = f"{quote_plus(self._settings.client)}:{quote_plus(self._settings.secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._settings.client}
            form |= {} if self._settings.secret is None else {"client_secret": self._settings.secret}
        return await self._fetched(str(about["token_endpoint"]), form, headers)

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in _ALGORITHMS:
                raise web.HTTPForbidden(text="the provider's token is signed in a way that is not accepted.")
            key = await self._key(str(head.get("kid", "")))
            found: dict[str, Any] = jwt.decode(
                token, key, algorithms=[str(head["alg"])], audience=self._settings.client,
                issuer=self._settings.issuer, leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise web.HTTPForbidden(text=f"the provider's token is not believed: {error!s:.100}") from error
        return found

    async def _with_user_info(self, claims: dict[str, Any], token: str) -> dict[str, Any]:
        """What the provider says of the person beside the token, which it need not repeat in it (Core §5.4)."""
        url = str((await self._described()).get("userinfo_endpoint", ""))
        if not token or URL(url).scheme != URL(self._settings.issuer).scheme:
            return claims
        found = await self._fetched(url, headers={"Authorization": f"Bearer {token}"})
        if found.get("sub") != claims["sub"]:
            raise web.HTTPForbidden(text="the provider speaks of somebody else than its token does.")
        return found | claims

    async def _key(self, name: str) -> jwt.PyJWK:
        """The provider's key of that name. For an unknown one they are fetched anew, but not at anybody's will."""
        keys, at = self._keys
        age = self._clock() - at
        if age > _KEYS_SECONDS or (name not in keys and age > _KEYS_AGAIN_SECONDS):
            about = await self._described()
            found = await self._fetched(str(about["jwks_uri"]))
            listed = found.get("keys")
            keys = {}
            for each in listed if isinstance(listed, list) else []:
                try:
                    keys[str(each.get("kid", ""))] = jwt.PyJWK.from_dict(each)
                except (jwt.PyJWTError, AttributeError, TypeError):
                    continue  # of a kind that is not known here
            self._keys = keys, self._clock()
        if name not in keys:
            raise web.HTTPForbidden(text="the provider's token is signed by a key that it does not show.")
        return keys[name]

    async def _fetched(
        self, url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A JSON object of the provider's; UnreachableError where there is none."""
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.request(
                    "GET" if form is None else "POST", url, data=form, headers=headers, allow_redirects=False
                ) as response,
            ):
                raw = await response.read()
                if response.status != 200:
                    raise UnreachableError(f"the provider answered {response.status}: try to sign in again.")
                found = json.loads(raw)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise UnreachableError(f"the provider can't be asked ({error!s:.100}): try again.") from error
        if not isinstance(found, dict):
            raise UnreachableError("the provider's answer is no JSON object.")
        return found
