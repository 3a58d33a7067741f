"""`modelsync serve`'s sockets and processes: one process a core on one port, bounded connections, a quick end.

What is answered is origin.py's business. Each process accepts for itself (SO_REUSEPORT), so the kernel spreads
connections over them; the first process only starts the others and replaces one that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from aiohttp import web

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.origin import tickets
from modelsync_server.origin.connection_guard import Guard
from modelsync_server.origin.origin import application
from modelsync_server.origin.store_origin import Redirect, StoreOrigin
from modelsync_server.store import MARKER, Store
from modelsync_server.store.directory import DirectoryStore

MAX_CONNECTIONS = 8192
"""Of one process; who comes when they are used up is turned away at once and comes again later."""

HEADER_SECONDS = 20.0
"""From a connection's beginning to the end of its first request's headers; more is an attack or a dead line."""

IDLE_SECONDS = 75.0
"""From one request's end to the end of the next one's headers."""

_SHUTDOWN_SECONDS = 1.0
"""How long requests may go on after SIGTERM (aiohttp waits twice that); whoever reads slower is cut off and
resumes elsewhere."""

_TLS_READ_BYTES = 16 * 1024
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the one that forked it dies, however that happens."""

_END_SECONDS = 4.0
_RESTART_SECONDS = 1.0
_BACKLOG = 1024
_SPARE_DESCRIPTORS = 64

_LOG = logging.getLogger(__name__)


def serve(
    store: Store,
    host: str,
    port: int,
    cert: Path | None,
    key: Path | None,
    announce: Callable[[str], None],
    processes: int | None = None,
    redirect: Redirect | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the JSON line `{"url"}` once connections are accepted.

    `processes`: how many serve; None: one a core, and one for a store that is no directory, whose line is the limit.
    `redirect`: what is read at the bucket instead. UsageError for what can't be served so and for unusable
    certificates, LocalError if the address is taken.
    """
    context = _tls(cert, key)
    if isinstance(store, DirectoryStore):
        if redirect is not None:
            raise UsageError("a directory has nowhere to send devices to: leave out --redirect-from.")
        make: Callable[[], web.Application] = partial(application, store.root)
        count = processes or len(os.sched_getaffinity(0))
    else:
        if (processes or 1) > 1:
            raise UsageError("a bucket is served by one process: leave out --processes, and let a proxy spread more.")
        make, count = StoreOrigin(store, redirect).application, 1
        asyncio.run(_seen(store))
    with _bound(host, port) as alone:  # not shared, so that an address that another server has is refused
        port = alone.getsockname()[1]
    listeners = [_bound(host, port, shared=True) for _ in range(count)]
    for listener in listeners:
        listener.listen(_BACKLOG)
    name = f"[{host}]" if ":" in host else host
    url = json.dumps({"url": f"{'https' if context else 'http'}://{name}:{port}"})
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})  # until somebody waits for them

    first = os.getpid()

    def start(listener: socket.socket) -> int:
        pid = os.fork()
        if pid == 0:
            _child(make, listener, context, first)
        return pid

    if count == 1:
        announce(url)  # the kernel accepts already
        asyncio.run(_accept(make, listeners[0], context))
        return
    running = {start(listener): listener for listener in listeners}
    announce(url)
    while signal.sigwait({*ends, signal.SIGCHLD}) not in ends:
        for pid in _ended():
            listener = running.pop(pid)
            _LOG.warning("a process of the origin died and is started again.")
            time.sleep(_RESTART_SECONDS)
            running[start(listener)] = listener
    _end(set(running))


async def _seen(store: Store) -> None:
    """Ask for what every store has, so that wrong credentials are told before devices come."""
    await store.get(MARKER)


def _child(
    make: Callable[[], web.Application], listener: socket.socket, context: ssl.SSLContext | None, first: int
) -> None:
    """Serve in a forked process, for as long as process `first` lives; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != first:
            return
        # Whoever reads the url reads to the end of it, which must not wait for this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        asyncio.run(_accept(make, listener, context))
        code = 0
    finally:
        os._exit(code)


async def _accept(make: Callable[[], web.Application], listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Answer what comes to `listener` until SIGTERM or SIGINT, which the caller has blocked."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    if context is not None:
        # asyncio reads requests of up to 256 KiB at a time, with so much memory for each connection; ours are tiny.
        sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
    guard = Guard(_room(), HEADER_SECONDS, IDLE_SECONDS)
    app = make()
    app.middlewares.append(guard.middleware)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, lingering_time=1.0)
    await runner.setup()
    answers = runner.server
    assert answers is not None
    server = await loop.create_server(
        lambda: guard.protect(answers()),
        sock=listener,
        ssl=context,
        ssl_handshake_timeout=HEADER_SECONDS if context else None,
        backlog=_BACKLOG,
    )
    await stop.wait()
    server.close()
    await runner.cleanup()


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket on that address (port 0: any free one), which other sockets of ours may share; LocalError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        found.bind(address)
    except OSError as error:
        raise LocalError(f"can't listen on {host}:{port} ({error.strerror}): choose another --port.") from error
    return found


def _room() -> int:
    """How many connections this process may hold: each takes a descriptor, and its file another."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(1, min(MAX_CONNECTIONS, (most - _SPARE_DESCRIPTORS) // 2))


def _ended() -> Iterator[int]:
    """Process ids of children that are no more."""
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            yield pid


def _end(running: set[int]) -> None:
    """Have every child end: those that don't within the time are killed."""
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    while running and time.monotonic() < deadline:
        running -= set(_ended())
        time.sleep(0.01)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("TLS needs both --tls-cert and --tls-key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
        tickets.issue(context, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{cert} and {key} are not a usable certificate and key: {error}.") from error
    return context
