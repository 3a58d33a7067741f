"""The daemon's Unix socket: HTTP/1.1 with JSON for inference processes, the command line and metrics scrapers.

It translates; what it asks for is done by Commands (docs/interfaces.md §3).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from modelsync_daemon.activate.inference_processes import Processes, Report
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.local.logs import Recent
from modelsync_daemon.reconcile import operations
from modelsync_daemon.reconcile.commands import Commands
from modelsync_daemon.timing.deadline import within
from modelsync_protocol import names
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError

_MAX_BODY_BYTES = 64 * 1024
_KEEPALIVE_SECONDS = 20.0
_LONGEST_WAIT_SECONDS = 25
_MAX_SOCKET_PATH = 100
"""A Unix socket's path, bytes: the kernel takes 107."""


class SocketApi:
    """Serves one daemon's commands on `path`; `start` and `stop` once each."""

    def __init__(
        self, commands: Commands, processes: Processes, path: Path, group: str | None = None, metrics: bool = True,
        recent: Recent | None = None,
    ) -> None:  # fmt: skip
        self._commands, self._processes, self._recent = commands, processes, recent or Recent()
        self._path, self._group, self._metrics = path, group, metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, replacing a stale socket. Raises LocalError."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/logs", self._logs),
                web.post("/v1/sync", self._sync),
                web.post("/v1/rollback", self._rollback),
                web.post("/v1/release", self._release),
                web.post("/v1/hold", self._hold),
                web.post("/v1/gc", self._gc),
                web.post("/v1/repair", self._repair),
                web.post("/v1/import", self._import),
                web.get("/v1/import", self._imported),
                web.post("/v1/carried-report", self._carried_report),
                web.get("/v1/models/{name}/watch", self._watch),
                web.post("/v1/models/{name}/report", self._report),
                web.post("/v1/models/{name}/environment", self._environment),
            ]
        )
        if self._metrics:
            app.add_routes([web.get("/metrics", self._metrics_text)])
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a dead inference process must not stay registered until the next line to it
            shutdown_timeout=0.5,
        )
        await self._runner.setup()
        try:
            await web.SockSite(self._runner, self._listen()).start()
        except (OSError, LookupError) as error:
            raise LocalError(f"{self._path} can't be listened on ({error}); fix its folder or socket_group.") from error

    async def stop(self) -> None:
        """Close every connection and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o117)  # nobody may connect before group and mode are set
        try:
            with short_path(self._path) as short:
                listener.bind(short)
        finally:
            os.umask(old)
        if self._group is not None:
            shutil.chown(self._path, group=self._group)
        self._path.chmod(0o660)
        listener.setblocking(False)
        return listener

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._commands.status())

    async def _logs(self, request: web.Request) -> web.Response:
        """Records after number `after`; if there are none, those of the next `wait` seconds."""
        after, wait = (request.query.get(key, "0") for key in ("after", "wait"))
        if not after.removeprefix("-").isdecimal() or not wait.isdecimal() or int(wait) > _LONGEST_WAIT_SECONDS:
            raise UsageError(f"give after=NUMBER and wait=SECONDS, {_LONGEST_WAIT_SECONDS} at most.")
        for _ in range(int(wait) * 4):
            if self._recent.after(int(after)):
                break
            await asyncio.sleep(0.25)
        return web.json_response({"records": self._recent.after(int(after))})

    async def _sync(self, _: web.Request) -> web.Response:
        self._commands.sync()
        return web.json_response({}, status=202)

    async def _rollback(self, request: web.Request) -> web.Response:
        return web.json_response(operations.describe(await self._commands.rollback(await _model(request))))

    async def _release(self, request: web.Request) -> web.Response:
        self._commands.release(await _model(request))
        return web.json_response({})

    async def _hold(self, request: web.Request) -> web.Response:
        await self._commands.hold(await _model(request))
        return web.json_response({})

    async def _gc(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(await self._commands.collect()))

    async def _repair(self, request: web.Request) -> web.Response:
        name, document = await _model(request), await _json(request)
        version, digest = document.get("version"), document.get("digest")
        if type(version) is not int or not names.is_digest(digest):
            raise UsageError('the body names no version: {"model":"NAME","version":N,"digest":"…"}.')
        self._commands.repair(name, Reference(version, digest))
        return web.json_response({}, status=202)

    async def _import(self, request: web.Request) -> web.Response:
        document = await _json(request)
        path, listed = (document.get("path"), document.get("models")) if isinstance(document, dict) else (None, None)
        if not isinstance(path, str) or not path.startswith("/") or not isinstance(listed, dict):
            raise UsageError('the body names no medium: {"path":"/…","models":{"NAME":[N,…]}}.')
        for name, versions in listed.items():
            names.check_model_name(name)
            if not isinstance(versions, list) or not versions:
                raise UsageError(f"{name} has no version on this medium; export again.")
            for version in versions:
                names.check_version(version)
        return web.json_response(await self._commands.bring(path, listed), status=202)

    async def _imported(self, _: web.Request) -> web.Response:
        return web.json_response(self._commands.imported())

    async def _carried_report(self, _: web.Request) -> web.Response:
        return web.json_response(self._commands.carried_report())

    async def _report(self, request: web.Request) -> web.Response:
        name = names.check_model_name(request.match_info["name"])
        self._commands.report(name, Report.parse(await _json(request)))
        return web.Response(status=204)

    async def _environment(self, request: web.Request) -> web.Response:
        name, document = names.check_model_name(request.match_info["name"]), await _json(request)
        pid = document.get("pid") if isinstance(document, dict) else None
        if type(pid) is not int:
            raise UsageError('the body names no process: {"pid":N,"python":"3.13.5","packages":{…},"complete":true}.')
        self._commands.environment(name, pid, document)
        return web.Response(status=204)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        name = names.check_model_name(request.match_info["name"])
        pid = request.query.get("pid", "")
        if not pid.isascii() or not pid.isdigit() or len(pid) > 9:
            raise UsageError("give the process id: ?pid=N.")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with self._processes.register(name, int(pid)) as watch, contextlib.suppress(ConnectionError):
            while True:
                try:
                    event = await within(_KEEPALIVE_SECONDS, watch.hints.get())
                except TimeoutError:
                    event = "keepalive"
                await response.write(json.dumps({"event": event}).encode() + b"\n")
        return response

    async def _metrics_text(self, _: web.Request) -> web.Response:
        from modelsync_daemon.local import metrics  # costs memory only where somebody scrapes

        body, content_type = metrics.render(self._commands.status(), self._processes)
        return web.Response(body=body, headers={"Content-Type": content_type})


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path to the same socket that fits into the kernel's limit, through /proc/self/fd if need be."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except UsageError as error:
        return web.json_response({"error": str(error)}, status=400)
    except LocalError as error:
        return web.json_response({"error": str(error)}, status=503)
    except ModelsyncError as error:
        return web.json_response({"error": str(error)}, status=409)


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise UsageError("the body is not JSON.") from error


async def _model(request: web.Request) -> str:
    document = await _json(request)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, str):
        raise UsageError('the body names no model: {"model":"NAME"}.')
    return names.check_model_name(model)
