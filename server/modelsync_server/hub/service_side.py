"""The service side: IoT Hub's REST (api-version 2021-04-12) for registrations, twins, queries, methods, configurations.

Source: learn.microsoft.com/rest/api/iothub/service. Every request needs a SAS token of a policy (`skn`).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiohttp import web

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server import query
from modelsync_server.hub.bulk import change_registry
from modelsync_server.hub.configurations.rest import ConfigurationRoutes
from modelsync_server.hub.devices import Devices
from modelsync_server.hub.registry import Registry
from modelsync_server.hub.state import Registration, Twin
from modelsync_server.hub.traffic import TooManyRequests, Traffic, kind_of
from modelsync_server.hub.twin_view import TwinView
from modelsync_server.iothub import sas
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import HubError, argument_invalid, unauthorised
from modelsync_server.iothub.identity import Identity

API_VERSION = "2021-04-12"
_DEFAULT_PAGE = 100
_MAX_PAGE = 1000
_METHOD_SECONDS = 30
_MAX_METHOD_SECONDS = 300
_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ServiceSide:
    """The HTTPS listener. `policies` maps names to keys; each may do everything."""

    def __init__(
        self,
        registry: Registry,
        devices: Devices,
        view: TwinView,
        configurations: ConfigurationRoutes,
        traffic: Traffic,
        *,
        host_names: Collection[str],
        policies: dict[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._devices = devices
        self._view, self._configurations, self._traffic = view, configurations, traffic
        self._host_names = tuple(host_names)
        self._policies = policies
        self._clock = clock
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listen; return the port. Raises OSError."""
        self._runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=context)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def application(self) -> web.Application:
        """The routes, for the listener and for tests."""
        app = web.Application(middlewares=[self._guard], client_max_size=documents.MAX_BODY_BYTES)
        router = app.router
        for prefix in ("{device}", "{device}/modules/{module}"):
            router.add_get(f"/devices/{prefix}", self._get_registration)
            router.add_put(f"/devices/{prefix}", self._put_registration)
            router.add_delete(f"/devices/{prefix}", self._delete_registration)
            router.add_get(f"/twins/{prefix}", self._get_twin)
            router.add_patch(f"/twins/{prefix}", self._change_twin)
            router.add_put(f"/twins/{prefix}", self._change_twin)
            router.add_post(f"/twins/{prefix}/methods", self._invoke)
        router.add_get("/devices/{device}/modules", self._list_modules)
        router.add_post("/devices/query", self._query)
        router.add_post("/devices", self._bulk)
        self._configurations.register(router)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        kind = kind_of(request.method, request.path)
        response = await self._answered(request, handler, kind)
        self._traffic.note(kind, request.method, request.path, response.status)
        return response

    async def _answered(self, request: web.Request, handler: _Handler, kind: str) -> web.StreamResponse:
        try:
            self._authorise(request)
            if request.query.get("api-version") != API_VERSION:
                raise HubError(400001, "InvalidProtocolVersion", f"use api-version={API_VERSION}.")
            self._traffic.admit(kind)
            return await handler(request)
        except HubError as error:
            return _refusal(error)
        except UsageError as error:
            return _refusal(argument_invalid(str(error)))
        except LocalError as error:
            _log.error("%s %s: %s", request.method, request.path, error)
            return _refusal(HubError(500001, "ServerError", "The hub can't store this now."))
        except web.HTTPRequestEntityTooLarge:
            return _refusal(HubError(413001, "MessageTooLarge", "The body is too large."))
        except web.HTTPException as error:
            return _refusal(HubError(error.status * 1000, "InvalidOperation", error.reason or "refused"))

    def _authorise(self, request: web.Request) -> None:
        try:
            token = sas.parse(request.headers.get("Authorization", ""))
            key = self._policies.get(token.policy or "")
            if key is None:
                raise sas.SasError("skn names no policy of this hub")
            sas.check(token, [key], self._host_names, self._clock())
        except sas.SasError as error:
            raise unauthorised(str(error)) from error

    # Registrations

    async def _get_registration(self, request: web.Request) -> web.Response:
        return self._registration(self._registry.registration(_identity(request)))

    async def _list_modules(self, request: web.Request) -> web.Response:
        found = self._registry.modules(request.match_info["device"])
        return web.json_response([self._view.registration(each) for each in found])

    async def _put_registration(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        body = documents.parse_object(await request.read())
        if (body.get("deviceId", identity.device), body.get("moduleId", identity.module)) != (
            identity.device,
            identity.module,
        ):
            raise argument_invalid("the ids in the body are not those of the address.")
        authentication = body.get("authentication") or {}
        symmetric = authentication.get("symmetricKey") or {} if isinstance(authentication, dict) else {}
        if not isinstance(authentication, dict) or not isinstance(symmetric, dict):
            raise argument_invalid("authentication is not of the form {symmetricKey:{primaryKey,secondaryKey}}.")
        if authentication.get("type", "sas") != "sas":
            raise argument_invalid("the local hub knows symmetric keys only (authentication type sas).")
        registration = self._registry.put(
            identity,
            keys=(_key(symmetric.get("primaryKey")), _key(symmetric.get("secondaryKey"))),
            status=body.get("status") or "enabled",
            if_match=request.headers.get("If-Match"),
        )
        return self._registration(registration)

    async def _delete_registration(self, request: web.Request) -> web.Response:
        self._registry.delete(_identity(request), if_match=request.headers.get("If-Match"))
        return web.Response(status=204)

    def _registration(self, registration: Registration) -> web.Response:
        return _document(self._view.registration(registration), registration.etag)

    # Twins

    async def _get_twin(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        return self._twin(identity, self._registry.twin(identity))

    async def _change_twin(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        twin = self._registry.change(
            identity,
            documents.parse_object(await request.read()),
            if_match=request.headers.get("If-Match"),
            whole=request.method == "PUT",
        )
        return self._twin(identity, twin)

    def _twin(self, identity: Identity, twin: Twin) -> web.Response:
        return _document(self._view.twin(self._registry.registration(identity), twin), twin.etag)

    async def _query(self, request: web.Request) -> web.Response:
        body = documents.parse_object(await request.read())
        parsed = query.parse(str(body.get("query", "")))
        limit = _number(request.headers.get("x-ms-max-item-count", _DEFAULT_PAGE), 1, _MAX_PAGE, "x-ms-max-item-count")
        token = request.headers.get("x-ms-continuation")
        if parsed.counts:
            return self._groups(parsed, limit, token)
        most = limit if parsed.top is None else min(limit, parsed.top)
        found: list[dict[str, Any]] = []
        headers = {"x-ms-item-type": "Twin" if parsed.items is None else "Raw"}
        last: Identity | None = None
        for identity, document in self._view.all(modules=parsed.modules, after=_read_continuation(token)):
            if not parsed.matches(document):
                continue
            if len(found) == most:
                if parsed.top is None and last is not None:
                    headers["x-ms-continuation"] = _continuation(last)
                break
            found.append(parsed.project(document))
            last = identity
        return web.json_response(found, headers=headers)

    def _groups(self, parsed: query.Query, limit: int, token: str | None) -> web.Response:
        """Counted rows, a page at a time; they are counted anew for each page."""
        begin = _number(token or "0", 0, 2**31, "x-ms-continuation")
        rows = parsed.grouped(document for _, document in self._view.all(modules=parsed.modules))
        rows = rows[: parsed.top]
        more = {"x-ms-continuation": str(begin + limit)} if len(rows) > begin + limit else {}
        return web.json_response(rows[begin : begin + limit], headers={"x-ms-item-type": "Raw", **more})

    async def _bulk(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            items = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise argument_invalid("the body is not JSON.") from error
        answer = change_registry(self._registry, items)
        return web.json_response(answer, status=200 if answer["isSuccessful"] else 400)

    async def _invoke(self, request: web.Request) -> web.Response:
        body = documents.parse_object(await request.read())
        name = body.get("methodName")
        if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
            raise argument_invalid("methodName is missing or unusable.")
        response = _number(
            body.get("responseTimeoutInSeconds", _METHOD_SECONDS), 5, _MAX_METHOD_SECONDS, "responseTimeoutInSeconds"
        )
        connect = _number(body.get("connectTimeoutInSeconds", 0), 0, _MAX_METHOD_SECONDS, "connectTimeoutInSeconds")
        answer = await self._devices.invoke(
            _identity(request), name, body.get("payload"), response_seconds=response, connect_seconds=connect
        )
        return web.json_response({"status": answer.status, "payload": answer.payload})


def _identity(request: web.Request) -> Identity:
    return Identity(request.match_info["device"], request.match_info.get("module"))


def _document(document: dict[str, Any], etag: str) -> web.Response:
    return web.json_response(document, headers={"ETag": f'"{etag}"'})


def _refusal(error: HubError) -> web.Response:
    headers = {"iothub-errorcode": error.name}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.after)
    return web.json_response(error.body(), status=error.status, headers=headers)


def _key(value: object) -> str | None:
    if value is None or value == "":
        return None
    try:
        usable = isinstance(value, str) and 16 <= len(base64.b64decode(value, validate=True)) <= 64
    except (ValueError, binascii.Error):
        usable = False
    if not usable:
        raise argument_invalid("a symmetric key is not base64 of 16 to 64 bytes.")
    return str(value)


def _number(value: object, low: int, high: int, name: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise argument_invalid(f"{name} is not a number from {low} to {high}.")
    return number


def _continuation(last: Identity) -> str:
    return base64.urlsafe_b64encode(json.dumps([last.device, last.module]).encode()).decode()


def _read_continuation(text: str | None) -> Identity | None:
    if not text:
        return None
    try:
        device, module = json.loads(base64.urlsafe_b64decode(text))
        return Identity(device, module)
    except (ValueError, TypeError, binascii.Error) as error:
        raise argument_invalid("x-ms-continuation is not a token of this hub.") from error
