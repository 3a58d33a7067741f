"""The command `modelsync-infer`: arguments, start, signals and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from modelsync_inference.http_server import DRAIN, build_app
from modelsync_inference.memory_policy import Policy
from modelsync_inference.repository import Repository
from modelsync_inference.settings import Isolation, Settings
from modelsync_inference.trial import TrialRules
from modelsync_protocol import names
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError

_DRAIN_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_MIB = 1 << 20
_SWITCH_INTERVAL = 0.001
_SWITCH = {"auto": None, "on": True, "off": False}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see modelsync-infer --help).")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGTERM or SIGINT; never returns. Exit codes: 0 done, 2 wrong usage, 5 local trouble."""
    try:
        arguments = _parse(argv)
        logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
        # Requests must not feel the thread that follows the pointers, nor the collector our modules' objects.
        sys.setswitchinterval(_SWITCH_INTERVAL)
        gc.freeze()
        asyncio.run(_serve(arguments))
        code = 0
    except ModelsyncError as error:
        sys.stderr.write(f"modelsync-infer: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a session that is being created in the background can't be interrupted, only left behind.
    os._exit(code)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="modelsync-infer",
        description="Serve models of a modelsync data directory over the Open Inference Protocol v2 (HTTP).",
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the daemon's data directory")
    parser.add_argument(
        "--model", required=True, action="append", metavar="NAME", help="a model to serve; may be given several times"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=0, type=int, help="port to listen on; 0, the default: any free one")
    parser.add_argument("--threads", default=1, type=int, help="threads inside one inference (default: %(default)s)")
    parser.add_argument("--workers", default=2, type=int, help="inferences at the same time (default: %(default)s)")
    parser.add_argument(
        "--isolation",
        default=Isolation.PROCESS.value,
        choices=[kind.value for kind in Isolation],
        help="run each version in a process of its own, or in threads of the server (default: %(default)s)",
    )
    parser.add_argument(
        "--policy",
        default=Policy.AUTO.value,
        choices=[policy.value for policy in Policy],
        help="load a new version beside the old one (availability), instead of it while requests wait (resource), or "
        "whichever the memory allows (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-budget-mib", type=int, metavar="MIB", help="memory for `auto`; default: what the system has left"
    )
    parser.add_argument(
        "--prepack", default="auto", choices=_SWITCH, help="repack weights for speed; auto: only small models"
    )
    parser.add_argument(
        "--arena", default="auto", choices=_SWITCH, help="keep the memory of runs for the next; auto: only small models"
    )
    parser.add_argument(
        "--queue-seconds", default=5.0, type=float, help="how long requests wait for room (default: %(default)s)"
    )
    parser.add_argument(
        "--load-seconds", default=25.0, type=float, help="patience with a load or a probe (default: %(default)s)"
    )
    parser.add_argument("--run-seconds", default=30.0, type=float, help="patience with a run (default: %(default)s)")
    parser.add_argument("--canary", default=0.0, type=float, help="share of requests for a version on trial, 0 to 1")
    parser.add_argument("--shadow", default=0.0, type=float, help="share that it is given as well, to compare answers")
    parser.add_argument("--trial-seconds", default=30.0, type=float, help="length of a trial (default: %(default)s)")
    parser.add_argument("--min-agreement", default=0.0, type=float, help="share of rows that have to agree, 0 to 1")
    parser.add_argument(
        "--max-request-mib", default=64, type=int, metavar="MIB", help="longest request (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="accepted for symmetry; the ready line is always JSON")
    arguments = parser.parse_args(argv)
    for name in arguments.model:
        names.check_model_name(name)
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port} is not a port; use 0 to 65535.")
    for option in ("threads", "workers", "max_request_mib"):
        if not 1 <= getattr(arguments, option) <= 1024:
            raise UsageError(f"--{option.replace('_', '-')} must be from 1 to 1024.")
    if arguments.data.exists() and not arguments.data.is_dir():
        raise UsageError(f"--data {arguments.data} is not a directory.")
    return arguments


def _settings(arguments: argparse.Namespace) -> Settings:
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
    )


async def _serve(arguments: argparse.Namespace) -> None:
    if not arguments.data.exists():
        logging.getLogger(__name__).warning("%s does not exist yet; waiting for it.", arguments.data)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    models = Repository.open(arguments.data, _settings(arguments))
    for name in arguments.model:
        models.add(name)
    app = build_app(models, workers=arguments.workers, max_request_bytes=arguments.max_request_mib * _MIB)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, arguments.host, arguments.port)
        try:
            await site.start()
        except OSError as error:
            raise LocalError(
                f"can't listen on {arguments.host} port {arguments.port}: {error.strerror or error}; choose another."
            ) from error
        host, port = runner.addresses[0][:2]
        sys.stdout.write(json.dumps({"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"}) + "\n")
        sys.stdout.flush()
        await stop.wait()
        await site.stop()
        await app[DRAIN](_DRAIN_SECONDS)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(models.close)
