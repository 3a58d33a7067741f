"""A client of the service REST of any hub, Azure's or ours: twins, methods, queries, registrations, configurations.

Speaks api-version 2021-04-12 with aiohttp. Azure Entra tokens come in through `bearer`.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from modelsync_protocol import twin
from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError, UsageError
from modelsync_server.iothub import sas
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.connection_string import ServiceConnection
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity

API_VERSION = "2021-04-12"
_TOKEN_SECONDS = 3600
_TOKEN_MARGIN_SECONDS = 300
_ANSWER_SECONDS = 30.0
_RETRIES = 3
_RETRY_SECONDS = 0.5
_THROTTLED_RETRIES = 6
_LONGEST_PAUSE_SECONDS = 60.0
_SMALL_PATCH_BYTES = 1024

Json = dict[str, Any]


class NotFoundError(UsageError):
    """The hub does not know the device or module."""


class NotOnlineError(UnreachableError):
    """The device is known but not connected, or did not answer in time."""


class ConflictError(RefusedError):
    """It is there already, or was changed by somebody else since it was read (ETag)."""


TwinConflictError = ConflictError


@dataclass(frozen=True, slots=True)
class MethodResult:
    """A device's answer to a direct method."""

    status: int
    payload: Any


class ServiceClient:
    """`async with ServiceClient(connection) as hub: await hub.twin("device")`.

    Throttled and failing requests (429, 5xx) are tried again up to three times where that is safe, a throttled one
    as late and as often as the hub's Retry-After says; then, and when the hub can't be reached, UnreachableError.
    Wrong credentials are a RefusedError. `bearer` returns an Entra token (scope
    https://iothubs.azure.net/.default) to be used instead of the connection's key.
    """

    def __init__(self, connection: ServiceConnection, *, bearer: Callable[[], Awaitable[str]] | None = None) -> None:
        self._connection = connection
        self._bearer = bearer
        self._token = ("", 0.0)
        self._ahead = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        ca_file = self._connection.ca_file
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise LocalError(f"the CA file {ca_file} can't be read: {error}.") from error
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def now(self) -> float:
        """The hub's clock (seconds since 1970), by the Date of its last answer; ours before there was one."""
        return time.time() + self._ahead

    # Twins

    async def twin(self, device: str, module: str | None = None) -> Json:
        """The whole twin as REST gives it."""
        return _object(await self._call("GET", f"/twins/{Identity(device, module).url_path}"))

    async def set_desired(
        self, device: str, patch: Json, module: str | None = None, *, etag: str | None = None
    ) -> Json:
        """Merge `patch` into the desired properties (null deletes); return the new twin.

        With `etag` (a twin's "etag") TwinConflictError if it was changed meanwhile. UsageError, with the number and
        before anything is sent, for what no twin can hold; small patches are left to the hub's own sum.
        """
        await self._check_limits(device, patch, module)
        return await self.update_twin(device, {"properties": {"desired": patch}}, module, etag=etag)

    async def _check_limits(self, device: str, patch: Json, module: str | None) -> None:
        try:
            documents.check_patch(patch, "desired")
        except HubError as error:
            raise UsageError(f"a twin can't hold this: {error.message}") from error
        if documents.size(patch) <= _SMALL_PATCH_BYTES:
            return
        before = (await self.twin(device, module)).get("properties", {}).get("desired", {})
        plain = {key: value for key, value in before.items() if not key.startswith("$")}
        after = documents.size(twin.merge(plain, patch))
        if after > documents.MAX_SECTION_BYTES:
            raise UsageError(
                f"the desired properties would have {after} bytes and a twin holds {documents.MAX_SECTION_BYTES}; "
                "take old entries out first (null deletes)."
            )

    async def update_twin(self, device: str, body: Json, module: str | None = None, *, etag: str | None = None) -> Json:
        """PATCH a twin with `{"tags":…,"properties":{"desired":…}}`; return the new twin."""
        headers = {"If-Match": "*" if etag is None else f'"{etag}"'}
        path = f"/twins/{Identity(device, module).url_path}"
        return _object(await self._call("PATCH", path, body=body, headers=headers))

    async def query(self, text: str, *, page: int = 100) -> AsyncIterator[Json]:
        """Yield every twin, or row, that a query finds, a page at a time."""
        token: str | None = None
        while True:
            rows, token = await self.query_page(text, page=page, token=token)
            for row in rows:
                yield row
            if token is None:
                return

    async def query_page(
        self, text: str, *, page: int = 100, token: str | None = None
    ) -> tuple[list[Json], str | None]:
        """One page of a query's twins or rows (at most `page`, up to 1,000), and the token of the next page."""
        headers = {"x-ms-max-item-count": str(page)} | ({} if token is None else {"x-ms-continuation": token})
        answer = await self._call("POST", "/devices/query", body={"query": text}, headers=headers)
        return _objects(answer), answer.headers.get("x-ms-continuation") or None

    async def invoke(
        self,
        device: str,
        method: str,
        payload: Any = None,
        module: str | None = None,
        *,
        response_seconds: int = 30,
        connect_seconds: int = 0,
    ) -> MethodResult:
        """Call a direct method; NotOnlineError if the device is away or silent. Never tried again by itself."""
        body = {
            "methodName": method,
            "responseTimeoutInSeconds": response_seconds,
            "connectTimeoutInSeconds": connect_seconds,
            "payload": payload,
        }
        path = f"/twins/{Identity(device, module).url_path}/methods"
        patience = _ANSWER_SECONDS + response_seconds + connect_seconds
        answer = _object(await self._call("POST", path, body=body, seconds=patience, again=False))
        return MethodResult(int(answer["status"]), answer.get("payload"))

    # Configurations

    async def configurations(self) -> list[Json]:
        """All automatic configurations and deployments, with what their metrics counted last."""
        return _objects(await self._call("GET", "/configurations", query="&top=100"))

    async def configuration(self, identifier: str) -> Json:
        """One of them; NotFoundError if it is not there."""
        return _object(await self._call("GET", _configuration(identifier)))

    async def put_configuration(self, identifier: str, body: Json, *, etag: str | None = None) -> Json:
        """Create one (no `etag`; ConflictError if it is there), or change the one that has this ETag."""
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        return _object(await self._call("PUT", _configuration(identifier), body=body, headers=headers))

    async def delete_configuration(self, identifier: str, *, etag: str | None = None) -> None:
        """Remove the one that has this ETag; NotFoundError if it is not there."""
        headers = {"If-Match": "*" if etag is None else f'"{etag}"'}
        await self._call("DELETE", _configuration(identifier), headers=headers)

    # Registrations

    async def change_registry(self, items: Sequence[Json]) -> list[Json]:
        """Carry out up to 100 bulk items (`{"id","moduleId","importMode",…}`); return an error per failed item."""
        answer = await self._call("POST", "/devices", body=list(items), accepted=(400,))
        body = _object(answer)
        if answer.status == 400 and "errors" not in body:
            raise _error(answer, "/devices")
        return [error for error in body.get("errors") or [] if isinstance(error, dict)]

    async def register(self, device: str, module: str | None = None) -> Json:
        """Create a device or module with new keys; RefusedError if it is there."""
        body = {"deviceId": device} | ({} if module is None else {"moduleId": module})
        return _object(await self._call("PUT", f"/devices/{Identity(device, module).url_path}", body=body))

    async def registration(self, device: str, module: str | None = None) -> Json:
        return _object(await self._call("GET", f"/devices/{Identity(device, module).url_path}"))

    async def remove(self, device: str, module: str | None = None) -> None:
        headers = {"If-Match": "*"}
        await self._call("DELETE", f"/devices/{Identity(device, module).url_path}", headers=headers)

    # Transport

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json | list[Json] | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
        seconds: float = _ANSWER_SECONDS,
        again: bool = True,
        accepted: tuple[int, ...] = (),
    ) -> _Answer:
        attempt = 0
        while True:
            answer = await self._once(method, path, query, body, headers or {}, seconds)
            attempt += 1
            after = answer.headers.get("Retry-After", "")
            told = after.isdigit() and answer.status == 429
            if not again or attempt >= (_THROTTLED_RETRIES if told else _RETRIES):
                break
            if answer.status != 429 and answer.status < 500:
                break
            pause = _RETRY_SECONDS * 2**attempt
            # Spread: several clients that were refused together would come back together.
            await asyncio.sleep(min(int(after), _LONGEST_PAUSE_SECONDS) * random.uniform(1.0, 1.2) if told else pause)
        if answer.status >= 400 and answer.status not in accepted:
            raise _error(answer, path)
        return answer

    async def _once(
        self,
        method: str,
        path: str,
        query: str,
        body: Json | list[Json] | None,
        headers: dict[str, str],
        seconds: float,
    ) -> _Answer:
        if self._session is None:
            raise RuntimeError("ServiceClient is used outside `async with`.")
        headers = {**headers, "Authorization": await self._authorisation(), "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json; charset=utf-8"
            data = json.dumps(body).encode()
        # The path is already percent-encoded, and ids may hold '%': yarl must not encode it again.
        url = URL(f"{self._connection.base_url}{path}?api-version={API_VERSION}{query}", encoded=True)
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._session.request(method, url, data=data, headers=headers, timeout=timeout) as response:
                raw = await response.read()
                self._ahead = _ahead(response.headers.get("Date"), self._ahead)
                return _Answer(response.status, _parse(raw), dict(response.headers))
        except aiohttp.ClientConnectorCertificateError as error:
            raise RefusedError(
                f"the hub at {self._connection.base_url} shows a certificate that is not trusted; check CaFile."
            ) from error
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
            raise UnreachableError(
                f"the hub at {self._connection.base_url} can't be reached: {error!s:.200}; try again."
            ) from error

    async def _authorisation(self) -> str:
        if self._bearer is not None:
            return f"Bearer {await self._bearer()}"
        token, expiry = self._token
        if expiry - time.time() < _TOKEN_MARGIN_SECONDS:
            expiry = time.time() + _TOKEN_SECONDS
            try:
                token = sas.sign(self._connection.key, self._connection.host_name, int(expiry), self._connection.policy)
            except sas.SasError as error:
                raise UsageError("the service connection string's SharedAccessKey is not base64.") from error
            self._token = token, expiry
        return token


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Any
    headers: dict[str, str]


def _ahead(date: str | None, known: float) -> float:
    """How far the hub's clock is ahead of ours; what was known before if the difference is within the Date's second."""
    try:
        found = parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return known
    # A Date is cut to its second, so it lags by up to one.
    return known if -1.0 <= found - known <= 0.0 else found


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _object(answer: _Answer) -> Json:
    if not isinstance(answer.body, dict):
        raise UnreachableError("the hub's answer is not a JSON object; is this address an IoT hub?")
    return answer.body


def _objects(answer: _Answer) -> list[Json]:
    if not isinstance(answer.body, list) or not all(isinstance(item, dict) for item in answer.body):
        raise UnreachableError("the hub's answer is not a list of JSON objects; is this address an IoT hub?")
    return answer.body


def _configuration(identifier: str) -> str:
    return f"/configurations/{quote(identifier, safe='')}"


def _error(answer: _Answer, path: str) -> UsageError | RefusedError | UnreachableError:
    said = ""
    if isinstance(answer.body, dict):
        said = str(answer.body.get("Message", ""))
        try:
            said = str(json.loads(said)["message"])
        except (ValueError, KeyError, TypeError):
            said = said.partition(";")[2] or said
    said = said.rstrip(".") or f"status {answer.status}"
    status, name = answer.status, answer.headers.get("iothub-errorcode", "")
    what = path.partition("?")[0]
    if name == "IotHubQuotaExceeded" or (status == 403 and "quota" in said.lower()):
        return RefusedError(f"the hub's quota is used up ({said}).")
    if status in (401, 403):
        return RefusedError(f"the hub refuses the credentials ({said}); check the service connection string.")
    if name == "DeviceNotOnline" or status == 504 or "404103" in str(answer.body):
        return NotOnlineError(f"the device is not connected or does not answer ({said}); try again when it is online.")
    if status == 404:
        return NotFoundError(f"the hub knows nothing at {what} ({said}); check the device and module id.")
    if status in (409, 412):
        return ConflictError(f"the hub refuses the change of {what} ({said}); read it again first.")
    if status == 429 or status >= 500:
        return UnreachableError(f"the hub can't answer now ({said}); try again later.")
    return UsageError(f"the hub does not accept this request ({said}).")
