"""The Event Grid webhook: what is uploaded to a separate container is published. It never sets a desired version.

Events are hints from strangers: only a blob's path and tag are taken from one, and only in the container named at
start; the bytes are read from there with our own credentials. What was published or refused once is remembered, so
that a replay of an old event can't bring back an old or withdrawn model.
Source: learn.microsoft.com/azure/event-grid/webhook-event-delivery.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

from modelsync_protocol import names
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.publisher import publish
from modelsync_server.scratch.places import temporary_folder
from modelsync_server.signin.tokens import Issuer
from modelsync_server.store import Store, durable
from modelsync_server.store.azure_account import BlobAddress, container_client
from modelsync_server.triggers.service_keys import check_service_keys
from modelsync_server.trust import read_catalogue

PATH = "/api/events"
KEY_HEADER = "X-Modelsync-Key"
ANSWER_SECONDS = 25.0
"""Event Grid waits 30 s; what takes longer goes on, and its redelivery finds it done."""

MAX_UPLOAD_BYTES = 4 << 30
_REMEMBERED = 10_000
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_CREATED = "Microsoft.Storage.BlobCreated"
_SUBJECT = re.compile(r"/blobServices/default/containers/([a-z0-9-]{3,63})/blobs/([^/]+)/([^/]+)")
EVENT_GRID = "4962773b-9cdb-44cf-a8bf-237846a00ab7"
"""Event Grid's own application in the public cloud, which asks Entra ID for the tokens that it sends."""
_CODE = re.compile(r"[A-Za-z0-9-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob that an event names: `model`/`file` in the upload container, as of `etag`."""

    model: str
    file: str
    etag: str


@dataclass(frozen=True, slots=True)
class Senders:
    """Who may deliver. `key`: who knows it; `issuer`: who has its token for `audience`, as one of `applications`.

    Where both are set both are asked for. Source: learn.microsoft.com/azure/event-grid/secure-webhook-delivery.
    """

    key: str | None = None
    issuer: Issuer | None = None
    audience: str = ""
    applications: frozenset[str] = frozenset({EVENT_GRID})

    def __post_init__(self) -> None:
        if self.key is None and self.issuer is None:
            raise UsageError(
                "a webhook that anybody may call publishes for anybody: give --key-file or --token-issuer."
            )
        if self.key is not None and len(self.key) < 16:
            raise UsageError(
                "the webhook's key is too short: use at least 16 characters, such as `openssl rand -hex 24`."
            )
        if self.issuer is not None and not (self.audience and self.applications):
            raise UsageError("tokens are for somebody: give --token-audience, the webhook's application in Entra ID.")

    async def check(self, request: web.Request) -> None:
        """RefusedError unless it is one of them; UnreachableError if the issuer can't be asked."""
        if self.key is not None:
            given = request.headers.get(KEY_HEADER) or request.query.get("code", "")
            if not hmac.compare_digest(given.encode(), self.key.encode()):
                raise RefusedError("the key is missing or wrong.")
        if self.issuer is not None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise RefusedError("the token is missing: Authorization: Bearer …")
            claims = await self.issuer.claims(token.strip(), self.audience)
            # `appid` in tokens of version 1, `azp` in those of version 2.
            if claims.get("appid", claims.get("azp")) not in self.applications:
                raise RefusedError("the token is another application's.")


class Webhook:
    """Publishes uploads of the allowed `models` into `store`, one at a time."""

    def __init__(
        self,
        store: Store,
        keys: str | None,
        uploads: BlobAddress,
        models: Sequence[str],
        senders: Senders,
        tell: Callable[[dict[str, Any]], None],
        memory: Path,
    ) -> None:
        """`memory`: a file for what was dealt with, kept by this object alone."""
        self._store, self._keys, self._uploads = store, keys, uploads
        self._models = frozenset(names.check_model_name(name) for name in models)
        self._senders = senders
        self._tell, self._memory = tell, memory
        self._one = asyncio.Lock()
        self._tasks: dict[Upload, asyncio.Task[None]] = {}

    async def check_keys(self) -> None:
        """Refuse to run with keys that this service must not have: RefusedError."""
        await check_service_keys(self._store, self._keys, self._models)

    def application(self) -> web.Application:
        """The HTTP side: POST /api/events, and GET /healthz."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_post(PATH, self._handle)
        application.router.add_get("/healthz", _healthy)
        return application

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            await self._senders.check(request)
        except RefusedError as error:
            return web.json_response({"error": str(error)}, status=401)
        except ModelsyncError as error:  # the issuer is away: Event Grid tries again
            _log.warning("%s", error)
            return web.json_response({"error": "tokens can't be checked just now."}, status=503)
        try:
            events = _events(await request.read())
            for event in events:
                if event["eventType"] == _VALIDATION:
                    return web.json_response({"validationResponse": _validation_code(event)})
            uploads = [upload for event in events if (upload := self._upload(event)) is not None]
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.gather(*(asyncio.shield(self._begun(upload)) for upload in uploads))
        except (TimeoutError, UnreachableError, LocalError) as error:
            return web.json_response({"error": str(error) or "still at work."}, status=503)
        except ModelsyncError as error:
            _log.warning("%s", error)
            return web.json_response({"error": str(error)}, status=200)  # a redelivery would not help
        return web.json_response({}, status=200)

    def _upload(self, event: dict[str, Any]) -> Upload | None:
        """The upload that an event is about; None if it is none of ours. ValueError if it can't be read."""
        if event["eventType"] != _CREATED:
            return None
        match = _SUBJECT.fullmatch(event["subject"])
        etag = event["data"].get("eTag")
        if not isinstance(etag, str) or not re.fullmatch(r'"?[A-Za-z0-9]{1,64}"?', etag):
            raise ValueError("the event has no usable data.eTag.")
        if match is None or match[1] != self._uploads.container or match[2] not in self._models:
            _log.info("an event for %r is not for this webhook", event["subject"][:200])
            return None
        names.check_relative_path(match[3])
        return Upload(match[2], match[3], etag.strip('"'))

    def _begun(self, upload: Upload) -> asyncio.Task[None]:
        """The task that publishes `upload`; a redelivery meanwhile joins it."""
        task = self._tasks.get(upload)
        if task is None:
            task = self._tasks[upload] = asyncio.ensure_future(self._publish(upload))
            task.add_done_callback(lambda done: (self._tasks.pop(upload, None), done.cancelled() or done.exception()))
        return task

    async def _publish(self, upload: Upload) -> None:
        async with self._one:
            dealt = self._dealt_with()
            if upload in dealt:
                _log.info("%s/%s is a redelivery", upload.model, upload.file)
                return
            with temporary_folder("modelsync-upload-") as scratch:
                path = scratch / upload.file
                if not await self._download(upload, path):
                    _log.info("%s/%s has changed since its event: a newer one will come", upload.model, upload.file)
                    return
                published = (await read_catalogue(self._store)).model(upload.model)
                digest = await asyncio.to_thread(_digest, path)
                if digest in published.versions.values():
                    _log.info("%s: these bytes are published already", upload.model)
                else:
                    result = await publish(self._store, self._keys, upload.model, path, untrusted=True)
                    self._tell({"name": result.name, "version": result.version, "manifest": result.manifest})
            kept = [*dealt, upload][-_REMEMBERED:]
            text = json.dumps([[each.model, each.file, each.etag] for each in kept])
            await asyncio.to_thread(durable.write, self._memory, text.encode())

    def _dealt_with(self) -> list[Upload]:
        try:
            return [Upload(*map(str, item)) for item in json.loads(self._memory.read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise LocalError(f"{self._memory} can't be read ({type(error).__name__}): restore or remove it.") from error

    async def _download(self, upload: Upload, path: Path) -> bool:
        """Bring the blob as the event knew it; False if it is another one by now, or gone."""
        try:
            async with container_client(self._uploads) as container:
                stream = await container.download_blob(
                    f"{self._uploads.prefix}{upload.model}/{upload.file}",
                    etag=f'"{upload.etag}"',
                    match_condition=MatchConditions.IfNotModified,
                )
                if stream.size > MAX_UPLOAD_BYTES:
                    raise RefusedError(f"{upload.model}/{upload.file} has {stream.size} bytes; the limit is 4 GiB.")
                with path.open("wb") as file:
                    async for block in stream.chunks():
                        await asyncio.to_thread(file.write, block)
        except ResourceNotFoundError:
            return False
        except HttpResponseError as error:
            if error.status_code == 412:
                return False
            raise UnreachableError(f"{self._uploads} can't be read ({error.status_code}); try again.") from error
        except AzureError as error:
            raise UnreachableError(f"{self._uploads} can't be reached ({type(error).__name__}); try again.") from error
        return True


def _digest(path: Path) -> str:
    with snapshot(path) as artifact:
        return artifact.manifest.digest


def _events(body: bytes) -> list[dict[str, Any]]:
    """Event Grid's schema, as far as it is used; ValueError with a sentence."""
    try:
        events = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON.") from None
    if not isinstance(events, list) or not events:
        raise ValueError("the body is no list of events in the Event Grid schema.")
    for event in events:
        good = isinstance(event, dict) and isinstance(event.get("data"), dict)
        if not good or not all(isinstance(event.get(key), str) for key in ("id", "eventType", "subject")):
            raise ValueError("an event lacks id, eventType, subject or data.")
    return events


def _validation_code(event: dict[str, Any]) -> str:
    code = event["data"].get("validationCode")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ValueError("the validation event has no usable code.")
    return code


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({})
