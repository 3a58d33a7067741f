"""Signs people in by an OpenID provider: the authorization code flow with PKCE. Tokens are checked by `tokens`.

Source: OpenID Connect Core 1.0 §3.1, RFC 7636 (PKCE), RFC 9700 (what to guard against). Of the provider nothing is
kept but its addresses and keys; the session afterwards is Access's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from aiohttp import web
from yarl import URL

from modelsync_protocol.errors import RefusedError
from modelsync_server.signin.access import Access, usable_name
from modelsync_server.signin.tokens import Issuer, fetched

CALLBACK = "/signin/callback"
_COOKIE = "modelsync_signin"
_FLOW_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Settings:
    """`claim` of the ID token is a person's name here. `secret` is None for a public client."""

    issuer: str
    client: str
    secret: str | None = None
    claim: str = "email"


class Provider:
    """One provider. Holds no connection between calls."""

    def __init__(self, settings: Settings, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._access = settings, access
        self._issuer = Issuer(settings.issuer, clock)

    @property
    def _redirect(self) -> str:
        return self._access.site.rstrip("/") + CALLBACK

    async def begin(self, back: str) -> web.Response:
        """Send a browser to the provider. `back`: the page that it asked for."""
        target = URL(await self._issuer.endpoint("authorization_endpoint"))
        flow = {"state": secrets.token_urlsafe(24), "nonce": secrets.token_urlsafe(24),
                "verifier": secrets.token_urlsafe(48), "back": back[:2000]}  # fmt: skip
        challenge = base64.urlsafe_b64encode(hashlib.sha256(flow["verifier"].encode()).digest()).decode().rstrip("=")
        scope = "openid email profile" if self._settings.claim in ("email", "preferred_username", "name") else "openid"
        target = target.update_query(
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

    async def _exchanged(self, code: str, verifier: str) -> dict[str, Any]:
        about = await self._issuer.described()
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
        return await fetched(await self._issuer.endpoint("token_endpoint"), form, headers)

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            return await self._issuer.claims(token, self._settings.client)
        except RefusedError as error:
            raise web.HTTPForbidden(text=str(error)) from error

    async def _with_user_info(self, claims: dict[str, Any], token: str) -> dict[str, Any]:
        """What the provider says of the person beside the token, which it need not repeat in it (Core §5.4)."""
        if not token or "userinfo_endpoint" not in await self._issuer.described():
            return claims
        found = await fetched(
            await self._issuer.endpoint("userinfo_endpoint"), headers={"Authorization": f"Bearer {token}"}
        )
        if found.get("sub") != claims["sub"]:
            raise web.HTTPForbidden(text="the provider speaks of somebody else than its token does.")
        return found | claims
