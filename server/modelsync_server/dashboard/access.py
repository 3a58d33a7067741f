"""Who may look, who may act: separate rights. Without a sign-in there is looking only, and on loopback only.

Two ways to sign in: a proxy that was named says who it is in a header, or the link with a secret that the command
prints. Source for the checks of a request's origin: OWASP's cheat sheet on CSRF.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field

from aiohttp import web

from modelsync_protocol.errors import UsageError

COOKIE = "modelsync_session"
FORM_TOKEN = "token"
_MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. `name` is empty for nobody in particular, who may look on loopback."""

    name: str
    acts: bool


@dataclass(frozen=True, slots=True)
class Access:
    """The rules. `proxies` are addresses whose `header` is believed; `actors` of them may act (`*`: all).

    `operator`: who comes by the printed link, if it is to be had. `secret` signs sessions and forms; it ends with the
    process. `loopback`: the page is bound to loopback.
    """

    loopback: bool
    proxies: frozenset[str] = frozenset()
    header: str = "X-Forwarded-User"
    actors: frozenset[str] = frozenset()
    operator: str = ""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def __post_init__(self) -> None:
        for address in self.proxies:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise UsageError(f"{address!r} is no IP address: name the proxy's.") from None
        if not self.loopback and not self.proxies:
            raise UsageError(
                "who may look is not said: listen on loopback, or name the proxy that signs people in (--proxy)."
            )

    @property
    def link_token(self) -> str:
        """What the printed link carries."""
        return self._signed("link")

    def person(self, request: web.Request) -> Person:
        """Who asks; raises 403 for who may not even look, 421 for a name that is not this page's."""
        if request.remote in self.proxies:
            name = request.headers.get(self.header, "").strip()
            if not name or len(name) > _MAX_NAME or not name.isprintable():
                raise web.HTTPForbidden(text=f"the proxy did not say who you are ({self.header}).")
            return Person(name, name in self.actors or "*" in self.actors)
        if not self.loopback:
            raise web.HTTPForbidden(text="come by the proxy, which signs you in.")
        if not _is_local(request.host):  # a name of somebody else's that resolves to this machine
            raise web.HTTPMisdirectedRequest(text="this page is called by a loopback address.")
        if self.operator and hmac.compare_digest(request.cookies.get(COOKIE, ""), self._signed("session")):
            return Person(self.operator, True)
        return Person("", False)

    def sign_in(self, request: web.Request) -> web.Response:
        """Answer the printed link: set the session, and go to the fleet."""
        given = request.query.get("token", "")
        if not self.operator or not self.loopback or not hmac.compare_digest(given.encode(), self.link_token.encode()):
            raise web.HTTPForbidden(text="this link is not of this start of the page: use the one that it printed.")
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(COOKIE, self._signed("session"), httponly=True, samesite="Strict", path="/")
        return response

    def form_token(self, person: Person) -> str:
        """What forms carry, so that no other site can send one for this person."""
        return self._signed(f"form {person.name}")

    def may_act(self, request: web.Request, person: Person, token: str) -> None:
        """Raises 403 unless this person may act and sent the form from this page."""
        if not person.acts:
            raise web.HTTPForbidden(text="you may look, not act.")
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or not _same_origin(request):
            raise web.HTTPForbidden(text="the form was sent from another site.")
        if not hmac.compare_digest(token.encode(), self.form_token(person).encode()):
            raise web.HTTPForbidden(text="the form is of another session: load the page again.")

    def _signed(self, what: str) -> str:
        return hmac.digest(self.secret, what.encode(), hashlib.sha256).hex()


def _same_origin(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.host


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
