"""`/v1/chat/completions`, `/v1/completions` and `/v1/models`, as OpenAI's clients call them, for language models.

A request begins on the version that serves when it gets its turn and ends on it, whatever is swapped meanwhile; those
that come later begin on the new one. Bodies, parts and errors are OpenAI's; `system_fingerprint` names the version.
Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from modelsync_inference.errors import InputError, NotServingError, UnknownError
from modelsync_inference.handle.hot_model import HotModel
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http.inference_statistics import Timing
from modelsync_inference.http.metrics import Metrics
from modelsync_inference.http.scoring_route import VERSION
from modelsync_inference.model.lease import Lease
from modelsync_inference.runtimes.port import LANGUAGE_PLATFORM
from modelsync_protocol.errors import ModelsyncError

_LISTEN_SECONDS = 1.0
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 503: "server_error", 500: "server_error"}
_SHOWN_DIGEST = 12
_MAX_THREADS = 256


@dataclass(frozen=True, slots=True)
class _Begun:
    """The version that answers."""

    version: int
    fingerprint: str


class Completions:
    """The three routes. `in_flight` counts a request; `status_of` is the status that an error has."""

    def __init__(
        self,
        models: Repository,
        metrics: Metrics,
        workers: int,
        in_flight: Callable[[], AbstractContextManager[None]],
        status_of: Callable[[Exception], int],
    ) -> None:
        self._models, self._metrics, self._workers = models, metrics, workers
        self._in_flight, self._status_of = in_flight, status_of
        self._turns: dict[str, asyncio.Semaphore] = {}
        # A thread waits for each answer that is being written: the turns bound them, per model.
        self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="modelsync-write")

    def routes(self) -> list[web.RouteDef]:
        """What the application adds."""
        return [
            web.get("/v1/models", self.list_models),
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.complete),
        ]

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._pool.shutdown)

    async def list_models(self, _: web.Request) -> web.Response:
        """The language models that serve."""
        found = [
            {"id": model.name, "object": "model", "created": 0, "owned_by": "modelsync"}
            for model in self._models.models
            if model.platform == LANGUAGE_PLATFORM
        ]
        return web.json_response({"object": "list", "data": found})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat."""
        return await self._answer(request, "messages", "prompt")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Go on with a prompt."""
        return await self._answer(request, "prompt", "messages")

    async def _answer(self, request: web.Request, wanted: str, other: str) -> web.StreamResponse:
        started, name, status, done = time.monotonic(), "", 500, None
        try:
            with self._in_flight():
                document = await _document(request)
                if wanted not in document:
                    raise InputError(f"the request needs {wanted!r}.")
                document.pop(other, None)
                document["stream"] = document.get("stream") is True
                model = self._model_of(document)
                name = model.name
                async with self._turns.setdefault(name, asyncio.Semaphore(self._workers)):
                    waited = time.monotonic() - started
                    response, begun = await self._write(request, model, document)
                    seconds = time.monotonic() - started - waited
            status = response.status
            if status == 200:
                self._metrics.ran(name, begun.version, 1, seconds)
                done = (str(begun.version), Timing(waited, 0.0, seconds, 0.0))
            return response
        except ModelsyncError as error:
            status = self._status_of(error)
            headers = {"Retry-After": "1"} if isinstance(error, NotServingError) else {}
            return web.json_response(_error(status, error), status=status, headers=headers)
        finally:
            self._metrics.observe(name, status, time.monotonic() - started, done)

    def _model_of(self, document: dict[str, Any]) -> HotModel:
        """The model that a body names, or the only language model."""
        named = document.get("model")
        if isinstance(named, str) and named:
            return self._models.get(named)
        found = [model for model in self._models.models if model.platform == LANGUAGE_PLATFORM]
        if len(found) == 1:
            return found[0]
        if not found and any(model.platform is None for model in self._models.models):
            raise NotServingError("no language model serves yet; try again later.")
        if not found:
            raise UnknownError("none of the models that are served is a language model (a .gguf file).")
        raise InputError(
            f"there are several language models ({', '.join(m.name for m in found)}); name one in 'model'."
        )

    async def _write(
        self, request: web.Request, model: HotModel, document: dict[str, Any]
    ) -> tuple[web.StreamResponse, _Begun]:
        parts = _Parts(self._pool, model, document)
        try:
            begun = await parts.begin(request)
            headers = {VERSION: str(begun.version)}
            if not document["stream"]:
                answer = await parts.next(request)
                return web.json_response(_named(answer or {}, model.name, begun), headers=headers), begun
            response = web.StreamResponse(headers={**headers, "Cache-Control": "no-cache"})
            response.content_type = "text/event-stream"
            # Not before the first part: until then a refusal has a status of its own.
            first = await parts.next(request)
            await response.prepare(request)
            try:
                with contextlib.suppress(ConnectionError):  # it is gone: nobody reads the rest
                    async for part in _chain(first, parts, request):
                        await response.write(_event(_named(part, model.name, begun)))
                    await response.write(b"data: [DONE]\n\n")
            except ModelsyncError as error:
                with contextlib.suppress(ConnectionError):
                    await response.write(_event(_error(self._status_of(error), error)))
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
            return response, begun
        finally:
            await parts.end()


class _Parts:
    """What a thread gets from the model, part by part. `end` has it stop, and waits for that."""

    def __init__(self, pool: ThreadPoolExecutor, model: HotModel, document: dict[str, Any]) -> None:
        self._pool, self._model = pool, model
        self._body = json.dumps(document).encode()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[_Begun | bytes | Exception | None] = asyncio.Queue()
        self._unwanted = threading.Event()
        self._task: asyncio.Future[None] | None = None

    async def begin(self, request: web.Request) -> _Begun:
        """Take the version that serves, and begin; raises what taking it does."""
        self._task = self._loop.run_in_executor(self._pool, self._run)
        begun = await self._get(request)
        assert isinstance(begun, _Begun)
        return begun

    async def next(self, request: web.Request) -> dict[str, Any] | None:
        """The next part; None: that was all. Raises what the model does."""
        part = await self._get(request)
        assert not isinstance(part, _Begun)
        return None if part is None else json.loads(part)

    async def end(self) -> None:
        """No more is wanted."""
        self._unwanted.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _get(self, request: web.Request) -> _Begun | bytes | None:
        while True:
            try:
                got = await asyncio.wait_for(self._queue.get(), _LISTEN_SECONDS)
                break
            except TimeoutError:
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError("the client is gone") from None
        if isinstance(got, Exception):
            raise got
        return got

    def _run(self) -> None:
        try:
            with self._model.lease() as lease:
                self._put(_begun(lease))
                lease.generate(self._body, self._emit)
            self._put(None)
        except Exception as error:
            self._put(error)

    def _emit(self, part: bytes) -> bool:
        if part:
            self._put(part)
        return not self._unwanted.is_set()

    def _put(self, item: _Begun | bytes | Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


def _begun(lease: Lease) -> _Begun:
    return _Begun(lease.version, f"modelsync-{lease.version}-{lease.digest[:_SHOWN_DIGEST]}")


async def _chain(first: dict[str, Any] | None, parts: _Parts, request: web.Request) -> AsyncIterator[dict[str, Any]]:
    part = first
    while part is not None:
        yield part
        part = await parts.next(request)


def _named(part: dict[str, Any], name: str, begun: _Begun) -> dict[str, Any]:
    """A part that says which model and version wrote it."""
    return {**part, "model": name, "system_fingerprint": begun.fingerprint}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _error(status: int, error: Exception) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": str(error), "type": kind, "param": None, "code": None}}


async def _document(request: web.Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}.") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise InputError("the request's body ended early or is not encoded as its headers say.") from error
    if not isinstance(document, dict):
        raise InputError("the request must be a JSON object.")
    return document
