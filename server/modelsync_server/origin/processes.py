"""Processes and sockets of an origin: forked servers that end with who started them, bounded connections, a quick end.

What is answered is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from modelsync_protocol.errors import LocalError, ModelsyncError
from modelsync_server.origin.connection_guard import Guard

MAX_CONNECTIONS = 8192
"""Of one process; who comes when they are used up is turned away at once and comes again later."""

HEADER_SECONDS = 20.0
"""From a connection's beginning to the end of its first request's headers; more is an attack or a dead line."""

IDLE_SECONDS = 75.0
"""From one request's end to the end of the next one's headers."""

BACKLOG = 1024
_SHUTDOWN_SECONDS = 1.0
"""How long requests may go on after SIGTERM (aiohttp waits twice that); whoever reads slower is cut off and
resumes elsewhere."""

_TLS_READ_BYTES = 16 * 1024
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the one that forked it dies, however that happens."""

_END_SECONDS = 4.0
_RESTART_SECONDS = 1.0
_SPARE_DESCRIPTORS = 64

_NEWS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
_LOG = logging.getLogger(__name__)


def block_signals() -> None:
    """What ends us, SIGHUP, and the news of a child's end wait from now on until `supervise` or `accept` takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _NEWS)


def _ends() -> set[signal.Signals]:
    """What ends us: SIGHUP too where we run on a terminal, since that is how it says that it was closed."""
    return {signal.SIGTERM, signal.SIGINT} | ({signal.SIGHUP} if os.isatty(0) else set())


@dataclass(frozen=True, slots=True)
class Child:
    """A process to supervise: `start` gives its pid each time, `end` is the signal on which it ends its work, and it
    is told by SIGHUP if it `rereads` its certificate."""

    start: Callable[[], int]
    end: signal.Signals = signal.SIGTERM
    rereads: bool = False


def supervise(children: Sequence[Child], ready: Callable[[], None], reread: Callable[[], None] = lambda: None) -> None:
    """Start processes, say that we are `ready`, replace each that dies; until SIGTERM or SIGINT.

    On SIGHUP `reread` reads here what changed, and if that is good those are told that read it themselves.
    `block_signals` comes before. Whatever happens, all of them are ended.
    """
    running: dict[int, Child] = {}
    ends = _ends()
    try:
        for child in children:
            running[child.start()] = child
        ready()
        while (news := signal.sigwait(_NEWS)) not in ends:
            if news == signal.SIGHUP and taken(reread):
                for pid, child in running.items():
                    if child.rereads:
                        os.kill(pid, signal.SIGHUP)
            for pid in _ended():
                child = running.pop(pid)
                _LOG.warning("a process of the origin died and is started again.")
                time.sleep(_RESTART_SECONDS)
                running[child.start()] = child
    finally:
        _end(running)


def taken(reread: Callable[[], None]) -> bool:
    """Whether what was read anew is good; if not, that is said and what is served goes on as before."""
    try:
        reread()
    except ModelsyncError as error:
        _LOG.warning("everything goes on as before: %s", error)
        return False
    return True


def die_with(first: int, by: signal.Signals = signal.SIGKILL) -> None:
    """In a child, just after its fork: get a signal when process `first` ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != first:
        os._exit(1)


def fork_server(
    make: Callable[[], web.Application],
    listener: socket.socket,
    context: ssl.SSLContext | None,
    reread: Callable[[], None] = lambda: None,
) -> int:
    """Fork a process that serves what comes to `listener` and ends with this one; its pid."""
    first = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with(first)
        # Whoever reads the url reads to the end of it, which must not wait for this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        asyncio.run(accept(make, listener, context, reread))
        code = 0
    finally:
        os._exit(code)


async def accept(
    make: Callable[[], web.Application],
    listener: socket.socket,
    context: ssl.SSLContext | None,
    reread: Callable[[], None] = lambda: None,
) -> None:
    """Answer what comes to `listener` until SIGTERM or SIGINT, which the caller has blocked; `reread` on SIGHUP."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, taken, reread)
    for number in _ends():
        loop.add_signal_handler(number, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEWS)
    if context is not None:
        # asyncio reads requests of up to 256 KiB at a time, with so much memory for each connection; ours are tiny.
        sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
    guard = Guard(room(), HEADER_SECONDS, IDLE_SECONDS)
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
        backlog=BACKLOG,
    )
    await stop.wait()
    server.close()
    await runner.cleanup()


def bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
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


def room() -> int:
    """How many connections this process may hold: each takes a descriptor, and its file another."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(1, min(MAX_CONNECTIONS, (most - _SPARE_DESCRIPTORS) // 2))


def _ended() -> Iterator[int]:
    """Process ids of children that are no more."""
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            yield pid


def _end(running: dict[int, Child]) -> None:
    """Have every child end: those that don't within the time are killed."""
    for pid, child in running.items():
        os.kill(pid, child.end)
    left, deadline = set(running), time.monotonic() + _END_SECONDS
    while left and time.monotonic() < deadline:
        left -= set(_ended())
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
