"""Who may look, who may act: separate rights. Without a sign-in there is looking only, and on loopback only.

Three ways to sign in: a proxy that was named says who it is in a header, an OpenID provider (oidc.py) does, or the link
with a secret that the command prints. Source for the checks of a request's origin: OWASP's cheat sheet on CSRF.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from modelsync_protocol.errors import UsageError

COOKIE = "modelsync_session"
FORM_TOKEN = "token"
SESSION_SECONDS = 12 * 3600
_MAX_NAME = 128
EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. `name` is empty for nobody in particular, who may look on loopback. `leaves`: has a session to end."""

    name: str
    acts: bool
    leaves: bool = False


class SignInNeeded(Exception):
    """Nobody is signed in, and there is a provider that would do it."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rules. `proxies` are addresses whose `header` is believed.

    `readers` may look (empty: all that are signed in), `actors` may act (`*`: all that may look; a reader need not be
    named twice). `operator`: who comes by the printed link, if it is to be had. `provider`: whether an OpenID provider
    signs people in; `site` is then the page's address as browsers see it. `secret` signs sessions and forms; it ends
    with the process. `loopback`: the page is bound to loopback. `scraper`: a bearer token that may read metrics alone.
    """

    loopback: bool
    proxies: frozenset[str] = frozenset()
    header: str = "X-Forwarded-User"
    actors: frozenset[str] = frozenset()
    readers: frozenset[str] = frozenset()
    operator: str = ""
    provider: bool = False
    site: str = ""
    scraper: str = field(default="", repr=False)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for address in self.proxies:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise UsageError(f"{address!r} is no IP address: name the proxy's.") from None
        if not self.loopback and not self.proxies and not self.provider:
            raise UsageError(
                "who may look is not said: listen on loopback, or name the proxy that signs people in (--proxy), "
                "or an OpenID provider (--oidc-issuer)."
            )
        if self.provider and self.operator:
            raise UsageError(
                "a printed link (--operator) is for a page without a provider: name the operator (--actor)."
            )
        if self.scraper and len(self.scraper) < 16:
            raise UsageError("the token for metrics is too short: use at least 16 characters.")
        if self.provider or self.site:
            self._check_site()

    def _check_site(self) -> None:
        try:
            url = URL(self.site)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.query_string:
            raise UsageError(
                f"{self.site!r:.80} is not the page's address: say how browsers call it (--site https://fleet.example.com)."
            )
        if url.scheme == "http" and not _is_local(url.authority):
            raise UsageError("sessions travel only over https: give the page's address with https://.")

    @property
    def link_token(self) -> str:
        """What the printed link carries."""
        return self._signed("link")

    @property
    def secure(self) -> bool:
        """Whether cookies go over https only."""
        return self.site.startswith("https://")

    def person(self, request: web.Request) -> Person:
        """Who asks. Raises 403 for who may not even look, 421 for a name that is not this page's, SignInNeeded."""
        if request.remote in self.proxies:
            names = request.headers.getall(self.header, [])
            name = names[0].strip() if len(names) == 1 else ""  # a second one may be the visitor's own
            if not usable_name(name):
                raise web.HTTPForbidden(text=f"the proxy did not say who you are ({self.header}).")
            return self._named(name)
        if self.provider:
            return self._signed_in(request)
        if not self.loopback:
            raise web.HTTPForbidden(text="come by the proxy, which signs you in.")
        if not _is_local(request.host):  # a name of somebody else's that resolves to this machine
            raise web.HTTPMisdirectedRequest(text="this page is called by a loopback address.")
        if self.operator and hmac.compare_digest(
            _octets(request.cookies.get(COOKIE, "")), self._signed("session").encode()
        ):
            return Person(self.operator, True, leaves=True)
        return Person("", False)

    def scrapes(self, request: web.Request) -> bool:
        """Whether a program has the token for metrics, which opens nothing else."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return (
            bool(self.scraper)
            and scheme.lower() == "bearer"
            and hmac.compare_digest(_octets(token.strip()), self.scraper.encode())
        )

    def _signed_in(self, request: web.Request) -> Person:
        if request.host != URL(self.site).authority:
            raise web.HTTPMisdirectedRequest(text=f"this page is called {self.site}.")
        name = self.unsealed("session", request.cookies.get(COOKIE, "")).get("name")
        if not isinstance(name, str):
            raise SignInNeeded
        found = self._named(name)
        return Person(found.name, found.acts, leaves=True)

    def _named(self, name: str) -> Person:
        acts = name in self.actors or EVERYBODY in self.actors
        if self.readers and not (name in self.readers or EVERYBODY in self.readers or name in self.actors):
            raise web.HTTPForbidden(text=f"{name} may not look at this page: ask who runs it.")
        return Person(name, acts)

    def sign_in(self, request: web.Request) -> web.Response:
        """Answer the printed link: set the session, and go to the fleet."""
        given = request.query.get("token", "")
        if not self.operator or not self.loopback or not hmac.compare_digest(given.encode(), self.link_token.encode()):
            raise web.HTTPForbidden(text="this link is not of this start of the page: use the one that it printed.")
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(COOKIE, self._signed("session"), httponly=True, samesite="Strict", path="/")
        return response

    def open_session(self, response: web.StreamResponse, name: str) -> None:
        """Who comes back from the provider is signed in for SESSION_SECONDS.

        The cookie is Lax: a Strict one is not sent after the way back from another site. Forms have their own token.
        """
        sealed = self.sealed("session", {"name": name}, SESSION_SECONDS)
        response.set_cookie(
            COOKIE, sealed, max_age=SESSION_SECONDS, httponly=True, secure=self.secure, samesite="Lax", path="/"
        )

    def form_token(self, person: Person) -> str:
        """What forms carry, so that no other site can send one for this person."""
        return self._signed(f"form {person.name}")

    def check_form(self, request: web.Request, person: Person, token: str) -> None:
        """Raises 403 unless the form was sent from this page by this person."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or not self._same_origin(request):
            raise web.HTTPForbidden(text="the form was sent from another site.")
        if not hmac.compare_digest(token.encode(), self.form_token(person).encode()):
            raise web.HTTPForbidden(text="the form is of another session: load the page again.")

    def may_act(self, request: web.Request, person: Person, token: str) -> None:
        """Raises 403 unless this person may act and sent the form from this page."""
        if not person.acts:
            raise web.HTTPForbidden(text="you may look, not act.")
        self.check_form(request, person, token)

    def _same_origin(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        return origin == self.site.rstrip("/") if self.site else origin.partition("://")[2] == request.host

    def sealed(self, purpose: str, content: dict[str, Any], seconds: float) -> str:
        """A cookie that only this process can have made, and that runs out."""
        body = json.dumps(content | {"until": self.clock() + seconds}).encode()
        text = base64.urlsafe_b64encode(body).decode()
        return f"{text}.{self._signed(f'{purpose} {text}')}"

    def unsealed(self, purpose: str, cookie: str) -> dict[str, Any]:
        """What was sealed for this purpose; empty if it was not, or has run out."""
        text, _, signature = cookie.partition(".")
        if not cookie.isascii():
            return {}
        if not hmac.compare_digest(signature.encode(), self._signed(f"{purpose} {text}").encode()):
            return {}
        content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text))
        return content if content["until"] > self.clock() else {}

    def _signed(self, what: str) -> str:
        return hmac.digest(self.secret, what.encode(), hashlib.sha256).hex()


def usable_name(name: str) -> bool:
    """Whether a name of a person can be shown, compared and written down."""
    return 0 < len(name) <= _MAX_NAME and name.isprintable() and name == name.strip()


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _octets(cookie: str) -> bytes:
    """A cookie's bytes, whatever was sent."""
    return cookie.encode("utf-8", "surrogateescape")
