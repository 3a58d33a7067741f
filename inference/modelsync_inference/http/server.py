"""The Open Inference Protocol v2 over HTTP: routes, statuses, draining. Inference itself is infer_request.py's."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from aiohttp import ClientPayloadError, web
from prometheus_client.registry import Collector

from modelsync_inference.errors import InputError, NotServingError, UnknownError
from modelsync_inference.handle.repository import Repository
from modelsync_inference.http import oip, scoring_route
from modelsync_inference.http.completions import Completions
from modelsync_inference.http.dynamic_batcher import BatchRules
from modelsync_inference.http.infer_request import Done, Inferring, Job, lease
from modelsync_inference.http.inference_statistics import Timing
from modelsync_inference.http.metrics import Metrics
from modelsync_inference.http.triton_config import triton_config
from modelsync_inference.model.lease import Lease
from modelsync_protocol.errors import ModelsyncError

_LOG = logging.getLogger(__name__)
_NAME = "modelsync-infer"
_MAX_WAITING = 256
_VERSION = "/versions/{version}"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

DRAIN: web.AppKey[Callable[[float], Awaitable[None]]] = web.AppKey("drain")
"""In the application: waits, at most so many seconds, until no inference request is in flight."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    models: Repository,
    *,
    workers: int,
    max_request_bytes: int,
    batching: BatchRules | None = None,
    collectors: Iterable[Collector] = (),
) -> web.Application:
    """The application that serves `models`, running at most `workers` inferences at a time; the caller starts both.

    `collectors` give metrics beside its own.
    """
    app = web.Application(client_max_size=max_request_bytes, middlewares=[_errors_as_json])
    server = _Server(models, workers, batching or BatchRules(), Metrics(models, collectors))
    one = "/v2/models/{model}"
    app.add_routes(
        [
            web.get("/v2", server.server_metadata),
            web.get("/v2/", server.server_metadata),
            web.get("/v2/health/live", server.live),
            web.get("/v2/health/ready", server.ready),
            web.get("/metrics", server.metrics),
            web.get("/status", server.status),
            web.get("/v2/models/stats", server.all_statistics),
            web.get("/score", server.score),
            web.post("/score", server.score),
            web.post("/v2/repository/index", server.index),
            web.post("/v2/repository/models/{model}/load", server.load),
            web.post("/v2/repository/models/{model}/unload", server.unload),
            *server.completions.routes(),
        ]
    )
    for prefix in (one, one + _VERSION):
        app.router.add_get(prefix, server.model_metadata)
        app.router.add_get(prefix + "/ready", server.model_ready)
        app.router.add_get(prefix + "/config", server.model_config)
        app.router.add_get(prefix + "/stats", server.model_statistics)
        app.router.add_post(prefix + "/infer", server.infer)
    app[DRAIN] = server.drain
    app.on_cleanup.append(server.close)
    return app


class _Server:
    def __init__(self, models: Repository, workers: int, batching: BatchRules, metrics: Metrics) -> None:
        self._models, self._batching, self._metrics = models, batching, metrics
        metrics.pending.set_function(lambda: self._waiting)
        self._inferring = Inferring(models, metrics, workers, batching)
        self._waiting = 0
        self._drained: asyncio.Event | None = None
        self.completions = Completions(models, metrics, workers, self._in_flight, _status_of)

    async def drain(self, seconds: float) -> None:
        # aiohttp's own shutdown no longer reads, so a request whose body is still on its way would be lost in it.
        self._drained = asyncio.Event()
        if self._waiting == 0:
            self._drained.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), seconds)

    async def close(self, _: web.Application) -> None:
        await self._inferring.close()
        await self.completions.close()

    async def server_metadata(self, _: web.Request) -> web.Response:
        version = importlib.metadata.version("modelsync-inference")
        return web.json_response({"name": _NAME, "version": version, "extensions": oip.EXTENSIONS})

    async def live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        for model in self._models.models:
            # Not a lease, which would wait for a version that is being exchanged.
            if not model.ready and not model.paused:
                raise NotServingError(f"no version of {model.name} serves yet; try again later.")
        return web.json_response({"ready": True})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": _PROMETHEUS})

    async def status(self, _: web.Request) -> web.Response:
        documents = {model.name: model.status() for model in self._models.models}
        return web.json_response(*documents.values() if len(documents) == 1 else ({"models": documents},))

    async def index(self, request: web.Request) -> web.Response:
        document = await _document(request)
        return web.json_response(self._models.index(only_ready=document.get("ready") is True))

    async def load(self, request: web.Request) -> web.Response:
        if (await _document(request)).get("parameters"):
            raise InputError("models come from the data directory; a load takes no parameters.")
        await asyncio.to_thread(self._models.load, request.match_info["model"])
        return web.json_response({})

    async def unload(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._models.unload, request.match_info["model"])
        return web.json_response({})

    async def model_ready(self, request: web.Request) -> web.Response:
        with self._lease(request) as lease:
            name = request.match_info["model"]
            return web.json_response({"name": name, "version": str(lease.version), "ready": True})

    async def model_metadata(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        with self._lease(request) as lease:
            versions = sorted({lease.version, *self._models.get(name).labels.values()})
            document = oip.metadata(name, versions, lease.platform, lease.inputs, lease.outputs)
        return web.json_response(document)

    async def model_config(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        with self._lease(request) as lease:
            rules = self._batching if self._models.get(name).batches else None
            return web.json_response(triton_config(name, lease.platform, lease.inputs, lease.outputs, rules))

    async def model_statistics(self, request: web.Request) -> web.Response:
        with self._lease(request) as lease:
            name = request.match_info["model"]
            version = None if request.match_info.get("version") is None else str(lease.version)
        return web.json_response({"model_stats": self._metrics.statistics.documents(name, version)})

    async def all_statistics(self, _: web.Request) -> web.Response:
        found = [self._metrics.statistics.documents(model.name) for model in self._models.models]
        return web.json_response({"model_stats": list(itertools.chain.from_iterable(found))})

    async def infer(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        started, status, done = time.monotonic(), 500, None
        try:
            done = await self._infer(request, name)
            status = 200
        except Exception as error:
            status = _status_of(error)
            raise
        finally:
            seconds = time.monotonic() - started
            self._metrics.observe(name, status, seconds, None if done is None else (done.version, done.timing))
        response = web.Response(body=done.body, headers=done.headers)
        if self._drained is not None:
            response.force_close()  # so that the client's next request goes to whoever follows
        return response

    async def score(self, request: web.Request) -> web.Response:
        started, status, name, done = time.monotonic(), 500, "", None
        try:
            with self._in_flight():
                model = scoring_route.model_of(self._models, request)
                name = model.name
                raw_data = scoring_route.raw_data_of(request, await _body(request))
                waited = time.monotonic() - started
                prediction = await asyncio.to_thread(scoring_route.score, model, raw_data)
            self._metrics.ran(name, prediction.version, 1, prediction.seconds)
            done = (str(prediction.version), Timing(waited, 0.0, prediction.seconds, 0.0))
            response = scoring_route.answer(request, prediction)
            status = response.status
        except ModelsyncError as error:
            status = _status_of(error)
            response = scoring_route.failed(request, status, error)
        finally:
            self._metrics.observe(name, status, time.monotonic() - started, done)
        if self._drained is not None:
            response.force_close()
        return response

    async def _infer(self, request: web.Request, name: str) -> Done:
        with self._in_flight():
            body, headers = await _body(request), request.headers
            accepted = headers.get("Accept-Encoding", "")
            version = request.match_info.get("version")
            return await self._inferring.answer(Job(name, version, body, headers.get(oip.HEADER_LENGTH), accepted))

    @contextlib.contextmanager
    def _in_flight(self) -> Iterator[None]:
        """Counts a request, for the limit of those that wait, and for the drain."""
        if self._waiting >= _MAX_WAITING:
            raise NotServingError(f"{_MAX_WAITING} requests are waiting already; try again later.")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and self._drained is not None:
                self._drained.set()

    def _lease(self, request: web.Request) -> Lease:
        return lease(self._models, request.match_info["model"], request.match_info.get("version"))


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except (web.RequestPayloadError, ClientPayloadError, ConnectionError) as error:
        raise InputError("the request's body ended early or is not encoded as its headers say.") from error


async def _document(request: web.Request) -> dict[str, Any]:
    body = await _body(request)
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InputError("the request must be a JSON object.")
    return document


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        text = error.reason if error.status != 413 else "the request is too large for this server (--max-request-mib)."
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.json_response({"error": text}, status=error.status, headers=headers)
    except ModelsyncError as error:
        headers = {"Retry-After": "1"} if isinstance(error, NotServingError) else {}
        return web.json_response({"error": str(error)}, status=_status_of(error), headers=headers)
    except Exception:
        _LOG.exception("a request to %s failed in an unforeseen way", request.path)
        return web.json_response({"error": "the server failed; its log says why."}, status=500)


def _status_of(error: Exception) -> int:
    if isinstance(error, web.HTTPException):
        return error.status
    for kind, status in ((UnknownError, 404), (InputError, 400), (NotServingError, 503)):
        if isinstance(error, kind):
            return status
    return 500
