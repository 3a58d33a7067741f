"""HTTP of the dashboard: routes, headers, forms, live events. What pages show is views.py's, who may is access.py's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import replace

from aiohttp import web
from yarl import URL

from modelsync_protocol.errors import ModelsyncError, RefusedError, UsageError
from modelsync_server.dashboard import acts, metrics
from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.asking import broken
from modelsync_server.dashboard.render import STATIC, environment, link, relative, static
from modelsync_server.dashboard.tables import Table, View
from modelsync_server.dashboard.text import moment, utc
from modelsync_server.dashboard.views import Views
from modelsync_server.rollout.port import FleetHub
from modelsync_server.signin.access import COOKIE, FORM_TOKEN, Access, Person, SignInNeeded
from modelsync_server.signin.oidc import CALLBACK, Provider

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PERSON = web.RequestKey("person", Person)
_OPEN = ("/signin", CALLBACK)
_MAX_LIVE = 100
_MAX_FORM_BYTES = 4096
_MAX_SAID = 400
_PATIENCE_SECONDS = 2.0
"""So long a page waits for the hub before it says that it is waiting."""
_STREAM_SECONDS = 600.0
_SILENCE_SECONDS = 15.0
"""An open page hears something at least so often, so that what stands between does not cut the line."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """The application over one hub; `live_seconds`: how often an open page is looked at for changes.

    `provider` signs people in, if `access` says that one does. `patience`: seconds that a page waits for the hub.
    """

    def __init__(
        self, hub: FleetHub, views: Views, answers: Answers, access: Access, audit: Audit, live_seconds: float = 5.0,
        *, provider: Provider | None = None, patience: float = _PATIENCE_SECONDS,
    ) -> None:  # fmt: skip
        self._hub, self._views, self._answers = hub, views, answers
        self._access, self._audit, self._live_seconds = access, audit, live_seconds
        self._provider, self._patience = provider, patience
        views.audit = audit
        self._live = 0
        self._making: dict[str, asyncio.Task[View]] = {}
        self._templates = environment(views.currency)
        self._static = static()

    def application(self) -> web.Application:
        """Ready to be served."""
        app = web.Application(client_max_size=_MAX_FORM_BYTES, middlewares=[self._guard])
        app.router.add_get("/signin", self._sign_in)
        app.router.add_get(CALLBACK, self._signed_in)
        app.router.add_post("/signout", self._sign_out)
        app.router.add_get("/static/{name}", self._asset)
        app.router.add_get("/live", self._events)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/act", self._act)
        app.router.add_get("/{page:.*}", self._page)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._answered(request, handler)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        except ModelsyncError as error:
            response = web.Response(status=503, text=str(error))
        if not response.prepared:
            response.headers.update(_HEADERS)
            if not request.path.startswith("/static/"):
                response.headers["Cache-Control"] = "no-store"
            if self._access.secure:
                response.headers["Strict-Transport-Security"] = "max-age=31536000"
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _asked_from_here(request):
            raise web.HTTPForbidden(text="another site asked for this.")
        if request.path in _OPEN or request.path.startswith("/static/"):
            return await handler(request)
        if request.path == "/metrics" and self._access.scrapes(request):
            return await handler(request)
        try:
            request[_PERSON] = self._access.person(request)
        except SignInNeeded:
            browses = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
            if self._provider is None or not browses:
                raise web.HTTPUnauthorized(text="sign in first: open the page in a browser.") from None
            return await self._provider.begin(relative(str(request.rel_url)))
        return await handler(request)

    # Sign-in

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        return self._access.sign_in(request)

    async def _signed_in(self, request: web.Request) -> web.StreamResponse:
        if self._provider is None:
            raise web.HTTPNotFound(text="there is no such page.")
        return await self._provider.finish(request)

    async def _sign_out(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self._access.check_form(request, request[_PERSON], str(form.get(FORM_TOKEN, "")))
        response = web.Response(text="You are signed out here.\n")
        response.del_cookie(COOKIE, path="/")
        return response

    # Pages

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound(text="there is no such file.")
        headers = {"Cache-Control": "max-age=300"}
        return web.Response(body=self._static[name], content_type=STATIC[name], charset="utf-8", headers=headers)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        wanted = request.query.get("format", "")
        view = await self._view(request.rel_url, None if wanted else self._patience)
        if view is None:
            waiting = View("waiting.html", "One moment", {}, status=202)
            text = self._html(waiting, request.rel_url, request[_PERSON])
            return web.Response(text=text, status=202, content_type="text/html", charset="utf-8")
        if wanted in ("json", "csv"):
            return self._data(view, wanted, request)
        text = self._html(view, request.rel_url, request[_PERSON])
        return web.Response(text=text, status=view.status, content_type="text/html", charset="utf-8")

    def _data(self, view: View, wanted: str, request: web.Request) -> web.StreamResponse:
        """A page's tables for programs; the next page of a list is in the header Link (RFC 8288)."""
        headers = {"Age": str(int(view.age))}
        if view.following is not None:
            headers["Link"] = f'<{link(str(request.rel_url), after=view.following)}>; rel="next"'
        if wanted == "json":
            tables = {table.name: table.document() for table in view.tables}
            found = tables if view.status == 200 else {"error": view.data.get("text", "")}
            return web.json_response(found, status=view.status, headers=headers)
        if view.status != 200:
            return web.Response(text=str(view.data.get("text", "")), status=view.status)
        name = request.query.get("table", view.tables[0].name if view.tables else "")
        found_table: Table | None = next((each for each in view.tables if each.name == name), None)
        if found_table is None:
            raise web.HTTPNotFound(text="there is no such table on this page.")
        headers["Content-Disposition"] = f'attachment; filename="{found_table.name}.csv"'
        return web.Response(text=found_table.csv(), content_type="text/csv", charset="utf-8", headers=headers)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """The fleet for Prometheus; what it counts is the first page's."""
        body = await metrics.render(lambda query: self._views.page([], query))
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _view(self, url: URL, patience: float | None) -> View | None:
        """A page; None if the hub takes longer than `patience` seconds. It goes on being asked then."""
        key = str(url)
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._made(url))
            task.add_done_callback(lambda done: self._making.pop(key, None))
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(task), patience)
        return None

    async def _made(self, url: URL) -> View:
        try:
            parts = [part for part in url.parts if part != "/"]
            return await self._views.page([part for part in parts if part], url.query)
        except UsageError as error:
            return broken(error, 404)
        except RefusedError as error:
            return broken(error, 403)
        except ModelsyncError as error:
            return broken(error, 503)

    def _html(self, view: View, url: URL, person: Person) -> str:
        """A page as a browser gets it."""
        return self._rendered(view, url, person, url.query.get("said", "")[:_MAX_SAID], self._mark(view, url, person))

    def _mark(self, view: View, url: URL, person: Person) -> str:
        """Changes whenever what a page shows does; neither its age nor what was said after an act is a change."""
        still = self._rendered(replace(view, age=0.0), url, person, "", "")
        return hashlib.sha256(still.encode()).hexdigest()[:16]

    def _rendered(self, view: View, url: URL, person: Person, said: str, mark: str) -> str:
        here = link(relative(str(url)), said=None)
        return self._templates.get_template(view.template).render(
            **view.data, view=view, person=person, token=self._access.form_token(person), here=here, said=said,
            mark=mark, find=url.query.get("find", ""),
        )  # fmt: skip

    # Acts

    async def _act(self, request: web.Request) -> web.StreamResponse:
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        person = request[_PERSON]
        self._access.may_act(request, person, form.get(FORM_TOKEN, ""))
        try:
            said, payload = await acts.act(self._hub, self._audit, person.name, form)
        except ModelsyncError as error:
            said, payload = str(error), None
        device, model = form.get("device", ""), form.get("model", "")
        if payload is not None:
            self._answers.keep(("said", device), (moment(utc(self._hub.now())), payload))
        self._answers.forget(lambda key: _concerned(key, device, model))
        target = link(relative(form.get("back", "/")), said=said[:_MAX_SAID])
        return web.Response(status=303, headers={"Location": target})

    # Live

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `changed` whenever the page at `path` would show something else than `mark`."""
        if self._live >= _MAX_LIVE:
            raise web.HTTPServiceUnavailable(text="too many pages are open: load this one by hand.")
        page = URL(relative(request.query.get("path", "/")))
        shown = request.query.get("mark", "")
        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        self._live += 1
        try:
            await response.prepare(request)
            for _ in range(
                int(_STREAM_SECONDS / self._live_seconds)
            ):  # then the browser comes again, and is asked who it is
                view = await self._view(page, _SILENCE_SECONDS)
                if view is None:
                    await response.write(b": the hub is still asked\n\n")
                    continue
                now = self._mark(view, page, request[_PERSON])
                said = f"event: changed\ndata: {now}\n\n" if now != shown else ": \n\n"
                await response.write(said.encode())
                shown = now
                await asyncio.sleep(self._live_seconds)
            return response
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._live -= 1


def _asked_from_here(request: web.Request) -> bool:
    """Whether a request may be answered at all: other sites may lead a person here, not load or open anything of ours.

    Source: web.dev, resource isolation policies. Browsers say who asks; other programs say nothing.
    """
    if request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none"):
        return True
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"


def _concerned(key: Hashable, device: str, model: str) -> bool:
    """Whether an answer may be wrong after an act on a device, or on a model's rollout."""
    if not isinstance(key, tuple):
        return False
    if device:
        return bool(key[0] == "devices" or key[:2] == ("device", device))
    return bool(key[0] in ("overview", "devices") or key[:2] in (("rollout", model), ("spent", model)))
