"""`modelsync serve`'s sockets and processes: one process a core on one port, bounded connections, a quick end.

What is answered is origin.py's business. Each process accepts for itself (SO_REUSEPORT), so the kernel spreads
connections over them; the first process only starts the others and replaces one that dies.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from aiohttp import web

from modelsync_protocol.errors import UsageError
from modelsync_server.origin import processes, tickets
from modelsync_server.origin.origin import application
from modelsync_server.origin.processes import Child
from modelsync_server.origin.store_origin import Redirect, StoreOrigin
from modelsync_server.store import MARKER, Store
from modelsync_server.store.directory import DirectoryStore


def serve(
    store: Store,
    host: str,
    port: int,
    cert: Path | None,
    key: Path | None,
    announce: Callable[[str], None],
    count: int | None = None,
    redirect: Redirect | None = None,
    front: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the JSON line `{"url"}` once connections are accepted.

    SIGHUP has certificate and key read again, and new connections get them; unusable ones change nothing.

    `count`: how many processes serve; None: one a core, and one for a store that is no directory, whose line is the
    limit. `redirect`: what is read at the bucket instead. `front`: "nginx" answers, with `count` workers. UsageError
    for what can't be served so and for unusable certificates, LocalError if the address is taken.
    """
    context = _tls(cert, key)
    make, directory = _answers(store, redirect)
    if directory is None and front is None and (count or 1) > 1:
        raise UsageError("a bucket is served by one process: leave out --processes, or add --front nginx.")
    if directory is None and front is None:
        asyncio.run(_seen(store))
    elif directory is None:
        _seen_elsewhere(store)
    count = count or (1 if directory is None and front is None else len(os.sched_getaffinity(0)))
    with ExitStack() as kept:
        alone = kept.enter_context(processes.bound(host, port))  # not shared: what another server has is refused
        port = alone.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        url = json.dumps({"url": f"{'https' if context else 'http'}://{name}:{port}"})
        reread = partial(_read_again, context, cert, key)
        if front is None:
            alone.close()
            listeners = [kept.enter_context(processes.bound(host, port, shared=True)) for _ in range(count)]
            for listener in listeners:
                listener.listen(processes.BACKLOG)
            children = [
                Child(partial(processes.fork_server, make, listener, context, reread), rereads=context is not None)
                for listener in listeners
            ]
        else:
            from modelsync_server.origin import nginx_front

            alone.listen(processes.BACKLOG)
            certificate = None if cert is None or key is None else (cert, key)
            nginx = kept.enter_context(nginx_front.running(alone, make, directory, certificate, count))
            children, reread = [*nginx.children], partial(_read_both, cert, key, nginx.reread)
        processes.block_signals()
        if len(children) == 1:
            announce(url)  # the kernel accepts already
            asyncio.run(processes.accept(make, listeners[0], context, reread))
            return
        processes.supervise(children, lambda: announce(url), reread)


def _seen_elsewhere(store: Store) -> None:
    """The same in a process of its own: the threads that a bucket's client starts would not survive our forks."""
    fork = multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(duplex=False)

    def ask() -> None:
        try:
            asyncio.run(_seen(store))
        except Exception as error:
            writer.send(error)
        else:
            writer.send(None)

    process = fork.Process(target=ask)
    process.start()
    try:
        error = reader.recv()
    finally:
        process.join()
    if error is not None:
        raise error


def _answers(store: Store, redirect: Redirect | None) -> tuple[Callable[[], web.Application], Path | None]:
    """What makes the application over a store, and the store's folder if it has one."""
    if not isinstance(store, DirectoryStore):
        return StoreOrigin(store, redirect).application, None
    if redirect is not None:
        raise UsageError("a directory has nowhere to send devices to: leave out --redirect-from.")
    return partial(application, store.root), store.root


async def _seen(store: Store) -> None:
    """Ask for what every store has, so that wrong credentials are told before devices come."""
    await store.get(MARKER)


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


def _read_again(context: ssl.SSLContext | None, cert: Path | None, key: Path | None) -> None:
    """Give a server's context what its files hold by now, if that is usable."""
    if context is not None and cert is not None and key is not None:
        _tls(cert, key)
        context.load_cert_chain(cert, key)
        tickets.issue(context, key)


def _read_both(cert: Path | None, key: Path | None, reread: Callable[[], None]) -> None:
    """The same for nginx, once it is known to be usable."""
    _tls(cert, key)
    reread()
