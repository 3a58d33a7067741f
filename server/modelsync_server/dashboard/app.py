"""HTTP of the dashboard: routes, headers, forms, live events. What pages show is views.py's, who may is access.py's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.resources import files
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from yarl import URL

from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError
from modelsync_server.dashboard import acts
from modelsync_server.dashboard.access import FORM_TOKEN, Access, Person
from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.questions import Filter
from modelsync_server.dashboard.views import View, Views, broken
from modelsync_server.rollout.port import FleetHub

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATIC = {
    "style.css": "text/css",
    "htmx.min.js": "text/javascript",
    "live.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MAX_LIVE = 100
_MAX_FORM_BYTES = 4096
_MAX_SAID = 400
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """The application over one hub; `live_seconds`: how often an open page is looked at for changes."""

    def __init__(
        self, hub: FleetHub, views: Views, answers: Answers, access: Access, audit: Audit, live_seconds: float = 5.0
    ) -> None:
        self._hub, self._views, self._answers = hub, views, answers
        self._access, self._audit, self._live_seconds = access, audit, live_seconds
        self._live = 0
        self._templates = Environment(
            loader=PackageLoader("modelsync_server.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"size": size, "number": number, "age": age, "money": money}
        self._templates.globals |= {"link": link, "path": path}
        static = files("modelsync_server.dashboard") / "static"
        self._static = {name: (static / name).read_bytes() for name in _STATIC}

    def application(self) -> web.Application:
        """Ready to be served."""
        app = web.Application(client_max_size=_MAX_FORM_BYTES, middlewares=[self._guard])
        app.router.add_get("/signin", self._sign_in)
        app.router.add_get("/static/{name}", self._asset)
        app.router.add_get("/live", self._events)
        app.router.add_post("/act", self._act)
        for path in ("/", "/devices", "/device/{id}", "/model/{name}", "/rollouts", "/rollout/{name}", "/cost"):
            app.router.add_get(path, self._page)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path != "/signin" and not request.path.startswith("/static/"):
                request["person"] = self._access.person(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        return self._access.sign_in(request)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound(text="there is no such file.")
        headers = {"Cache-Control": "max-age=300"}
        return web.Response(body=self._static[name], content_type=_STATIC[name], charset="utf-8", headers=headers)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        status = 200
        try:
            view = await self._view(request.rel_url)
        except ModelsyncError as error:
            view, status = broken(error), 503 if isinstance(error, UnreachableError) else 404
        wanted = request.query.get("format", "")
        if wanted == "json":
            return web.json_response({table.name: table.document() for table in view.tables}, status=status)
        if wanted == "csv":
            name = request.query.get("table", view.tables[0].name if view.tables else "")
            table = next((each for each in view.tables if each.name == name), None)
            if table is None:
                raise web.HTTPNotFound(text="there is no such table on this page.")
            headers = {"Content-Disposition": f'attachment; filename="{table.name}.csv"'}
            return web.Response(text=table.csv(), content_type="text/csv", charset="utf-8", headers=headers)
        text = self._render(view, request.rel_url, request["person"])
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")

    def _render(self, view: View, url: URL, person: Person) -> str:
        return self._templates.get_template(view.template).render(
            **view.data,
            view=view,
            person=person,
            token=self._access.form_token(person),
            here=str(url.without_query_params("said")),
            said=url.query.get("said", "")[:_MAX_SAID],
            currency=self._views.currency,
        )

    async def _view(self, url: URL) -> View:
        query = url.query
        match [part for part in url.parts if part not in ("", "/")]:
            case []:
                return await self._views.fleet(_whole(query.get("from", "0")))
            case ["devices"]:
                fields = {key: query.get(key, "") for key in ("model", "version", "state", "error", "device")}
                after, sort = query.get("after") or None, query.get("sort", "device")
                return await self._views.devices(Filter(**fields), after, sort)
            case ["device", identifier]:
                return await self._views.device(identifier)
            case ["model", name]:
                return await self._views.model(name)
            case ["rollouts"]:
                return await self._views.rollouts()
            case ["rollout", name]:
                return await self._views.rollout(name)
            case ["cost"]:
                return await self._views.cost()
        raise UsageError("there is no such page.")

    async def _act(self, request: web.Request) -> web.StreamResponse:
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        person: Person = request["person"]
        self._access.may_act(request, person, form.get(FORM_TOKEN, ""))
        try:
            said = await acts.act(self._hub, self._audit, person.name, form)
        except ModelsyncError as error:
            said = str(error)
        self._answers.forget()
        back = form.get("back", "/")
        if not back.startswith("/") or back.startswith("//"):
            back = "/"
        target = _relative(back).update_query(said=said)
        return web.Response(status=303, headers={"Location": str(target)})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `changed` whenever the page at `path` would show something else."""
        if self._live >= _MAX_LIVE:
            raise web.HTTPServiceUnavailable(text="too many pages are open: load this one by hand.")
        page = _relative(request.query.get("path", "/"))
        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        self._live += 1
        try:
            shown = b""
            while True:
                now = await self._fingerprint(page, request["person"])
                if shown and now != shown:
                    await response.write(b"event: changed\ndata: \n\n")
                else:
                    await response.write(b": \n\n")
                shown = now
                await asyncio.sleep(self._live_seconds)
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._live -= 1

    async def _fingerprint(self, page: URL, person: Person) -> bytes:
        try:
            view = await self._view(page)
        except ModelsyncError as error:
            view = broken(error)
        return hashlib.sha256(self._render(replace(view, age=0.0), page, person).encode()).digest()


def _relative(text: str) -> URL:
    try:
        url = URL(text)
        return url.relative() if url.absolute else url
    except ValueError:
        raise web.HTTPBadRequest(text="that is no page of this site.") from None


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise UsageError(f"{text!r:.20} is no number.")
    return int(text)


def size(value: int | None) -> str:
    """Bytes for people, in the units of a bill: 10³."""
    if value is None:
        return "–"
    amount, unit = float(value), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{value:,} B" if unit == "B" else f"{amount:,.3g} {unit}" if amount < 100 else f"{amount:,.0f} {unit}"


def number(value: int | None) -> str:
    """With separators."""
    return "–" if value is None else f"{value:,}"


def money(value: float | None, currency: str = "") -> str:
    """An amount, to the cent or to two digits that say something."""
    if value is None:
        return "–"
    text = f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"
    return f"{text} {currency}".strip()


def age(seconds: float) -> str:
    """How old an answer is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def link(address: str, **query: object) -> str:
    """`address` with these parts of a query set, others kept."""
    return str(URL(address).update_query({key: str(value) for key, value in query.items()}))


def path(prefix: str, name: str) -> str:
    """The address of something that somebody named: nothing in the name leads elsewhere."""
    return prefix + quote(name, safe="")
