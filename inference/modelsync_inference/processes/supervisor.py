"""Keeps a server process running: holds the listening socket, forks the server, and forks it again if it is killed.

Meanwhile connections queue in the socket instead of being refused. The same process is the one that the server's
workers are forked from (zygote.py), so a new server has nothing to import. It serves nothing itself.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from modelsync_inference.processes.exit_reason import fate
from modelsync_inference.processes.zygote import Forks, die_with_parent
from modelsync_protocol.errors import LocalError

_MAX_ENDS = 5
_WINDOW_SECONDS = 60.0
_FINAL_CODES = frozenset({0, 2, 3, 4, 5, 130})
"""Exit codes by which a server says that it is done, or that starting it again would not help."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a server is started with: the socket on which it may ask for workers, and its predecessor's end.

    `restarts`: how many servers ended before. `ended`: how the last one did; empty at the first start. `announced`:
    one byte that all servers share; not 0 once one of them has printed where it listens.
    """

    forks: socket.socket
    announced: mmap.mmap
    restarts: int = 0
    ended: str = ""


def supervise(listener: socket.socket, serve: Callable[[Start], int]) -> int:
    """Run `serve` in a forked process until it ends by itself; its exit code. The listener is closed afterwards.

    This process must have one thread. SIGTERM and SIGINT are passed on. LocalError if servers end again and again:
    `_MAX_ENDS` within `_WINDOW_SECONDS`.
    """
    with _Signals() as signals, mmap.mmap(-1, 1) as announced:
        restarts, ended, ends = 0, "", list[float]()
        while True:
            start = partial(Start, announced=announced, restarts=restarts, ended=ended)
            status = _run_one(listener, serve, signals, start)
            if signals.stopping and status == -signal.SIGTERM:
                return 0  # it had not come so far as to have anything to drain
            if status in _FINAL_CODES or signals.stopping:
                return status if status >= 0 else 128 - status
            restarts, ended = restarts + 1, fate(status)
            now = time.monotonic()
            ends = [*(end for end in ends if end > now - _WINDOW_SECONDS), now]
            if len(ends) >= _MAX_ENDS:
                raise LocalError(
                    f"the server ended {len(ends)} times within {_WINDOW_SECONDS:g} s, at last it {ended}; "
                    "its log says what it was about."
                )
            sys.stderr.write(f"modelsync-infer: the server {ended}; it is started again.\n")


def _run_one(
    listener: socket.socket, serve: Callable[[Start], int], signals: _Signals, start: Callable[[socket.socket], Start]
) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Held back until the server has its own handlers: one of ours, inherited, would swallow the only signal to stop.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            signals.forget()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            die_with_parent()
            code = serve(start(theirs))
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()

    def forget() -> None:
        listener.close()
        signals.forget()
        for number in (signal.SIGINT, signal.SIGTERM):  # the server drains first
            signal.signal(number, signal.SIG_IGN)

    forks = Forks(ours, forget)
    try:
        return _watch(pid, forks, listener, signals)
    finally:
        forks.close()


def _watch(pid: int, forks: Forks, listener: socket.socket, signals: _Signals) -> int:
    """Until the server `pid` has ended; its exit code, or minus the signal that ended it."""
    poll = select.poll()
    poll.register(signals.wakeups, select.POLLIN)
    poll.register(forks.requests, select.POLLIN)
    told = False
    while True:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if signals.stopping and not told:
            told = True
            listener.close()  # else connections would queue for a server that accepts no more
            os.kill(pid, signal.SIGTERM)
        for descriptor, _ in poll.poll():
            if descriptor == signals.wakeups.fileno():
                signals.clear()
                continue
            try:
                alive = forks.answer()
            except (OSError, ValueError):
                alive = False
            if not alive:
                poll.unregister(forks.requests)


class _Signals:
    """SIGTERM, SIGINT and SIGCHLD as bytes on `wakeups`, while `with` lasts; `stopping` after the first two."""

    def __init__(self) -> None:
        self.stopping = False
        self.wakeups, self._writer = socket.socketpair()
        for end in (self.wakeups, self._writer):
            end.setblocking(False)

    def __enter__(self) -> _Signals:
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, or else nothing is written
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def clear(self) -> None:
        """Take the bytes off."""
        with contextlib.suppress(BlockingIOError):
            self.wakeups.recv(4096)

    def forget(self) -> None:
        """Back to how signals were; in a forked process these are the parent's, and would wake it."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        self.wakeups.close()
        self._writer.close()
