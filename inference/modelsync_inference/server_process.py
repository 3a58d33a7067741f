"""The process that serves: an event loop with the HTTP server, and the models. Arguments are cli.py's business."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from aiohttp import web

from modelsync_inference import engine_options
from modelsync_inference.errors import NotServingError
from modelsync_inference.follow.memory_policy import Policy
from modelsync_inference.handle.repository import Repository
from modelsync_inference.handle.settings import EngineRules, Settings
from modelsync_inference.http.dynamic_batcher import BatchRules
from modelsync_inference.http.server import DRAIN, build_app
from modelsync_inference.model.trial import TrialRules
from modelsync_inference.processes.isolation import Isolation
from modelsync_inference.processes.supervisor import Start

if TYPE_CHECKING:
    from modelsync_inference.edge.module import EdgeModule

_EDGE_DRAIN_SECONDS = 5.0
"""IoT Edge kills a module 10 s after SIGTERM."""
_CLOSE_SECONDS = 1.0
_READY_SECONDS = 2.0
_MIB = 1 << 20
_SWITCH_INTERVAL = 0.001
_SWITCH = {"auto": None, "on": True, "off": False}


def serve(arguments: argparse.Namespace, listener: socket.socket, start: Start | None = None) -> int:
    """Serve on `listener` until SIGTERM or SIGINT, then drain; the exit code. `start`: what a supervisor gives."""
    # Requests must not feel the thread that follows the pointers, nor the collector our modules' objects.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
    asyncio.run(_serve(arguments, listener, start))
    return 0


def _settings(arguments: argparse.Namespace, start: Start | None) -> Settings:
    budget = arguments.memory_budget_mib
    return Settings(
        threads=arguments.threads,
        isolation=Isolation(arguments.isolation),
        concurrency=arguments.workers,
        prepack=_SWITCH[arguments.prepack],
        arena=_SWITCH[arguments.arena],
        policy=Policy(arguments.policy),
        memory_budget=None if budget is None else budget * _MIB,
        queue_seconds=arguments.queue_seconds,
        load_seconds=arguments.load_seconds,
        run_seconds=arguments.run_seconds,
        trials=TrialRules(arguments.canary, arguments.shadow, arguments.trial_seconds, arguments.min_agreement),
        allow_code=frozenset(arguments.allow_code),
        require_confinement=arguments.require_confinement,
        code_memory=arguments.code_memory_mib * _MIB,
        max_batch_size=arguments.max_batch_size,
        engines=EngineRules(
            engine_options.providers_of(arguments),
            engine_options.onnx_by_of(arguments),
            arguments.context_tokens,
            arguments.generation_seconds,
        ),
        restarts=start.restarts if start is not None else 0,
        ended=start.ended if start is not None else "",
    )


async def _serve(arguments: argparse.Namespace, listener: socket.socket, start: Start | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = _settings(arguments, start)
    models = Repository.open(arguments.data, settings, None if start is None else start.forks)
    for name in arguments.model:
        models.add(name)
    edge = _edge(arguments, models)
    app = build_app(
        models,
        workers=arguments.workers,
        max_request_bytes=arguments.max_request_mib * _MIB,
        batching=BatchRules(arguments.max_batch_size, arguments.max_queue_delay_microseconds / 1e6),
        collectors=[] if edge is None else [edge.metrics],
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        if start is not None and start.restarts:
            # Connections wait in the socket meanwhile, instead of being told to come back later.
            await asyncio.to_thread(_wait_ready, models)
        site = web.SockSite(runner, listener)
        await site.start()
        if start is None or not start.announced[0]:
            host, port = runner.addresses[0][:2]
            sys.stdout.write(json.dumps({"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"}) + "\n")
            sys.stdout.flush()
            if start is not None:
                start.announced[0] = 1
        if edge is not None:
            edge.start()
        await stop.wait()
        await site.stop()
        if edge is not None:
            await edge.stop(_EDGE_DRAIN_SECONDS)
        await app[DRAIN](arguments.drain_seconds)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(models.close)


def _edge(arguments: argparse.Namespace, models: Repository) -> EdgeModule | None:
    if arguments.edge_options is None:
        return None
    # Only here: a plain server does without the SDK.
    from modelsync_inference.edge.module import EdgeModule

    (name,) = arguments.model
    return EdgeModule(name, lambda: models.get(name).lease(), arguments.edge_options)


def _wait_ready(models: Repository) -> None:
    """Until every model serves, or for `_READY_SECONDS`."""
    deadline = time.monotonic() + _READY_SECONDS
    for model in models.models:
        with contextlib.suppress(NotServingError):
            model.wait_ready(max(0.0, deadline - time.monotonic()))
