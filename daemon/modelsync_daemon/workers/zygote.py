"""Forks workers off a process that shares the resident's memory: what both have imported is paid for once.

The zygote itself is forked before any thread exists, waits, and forks one worker for each request. It dies with the
resident (its end of the socket closes, and the kernel is asked for SIGKILL), and its workers die with it.
tests/daemon/test_memory.py holds what this is for: updates fit into the idle daemon's memory and 32 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import struct
import sys
from importlib import import_module
from typing import NoReturn

from modelsync_daemon.confinement import layers, lifetime
from modelsync_daemon.workers import lean_imports

_NUMBER = struct.Struct("=i")
_FDS = 3
_FORK, _AHEAD = b"F", b"A"

_SHARED = (
    "modelsync_daemon.disk.garbage",
    "modelsync_daemon.disk.journal",
    "modelsync_daemon.disk.zlib_verdict",
    "modelsync_daemon.transfer.origin_client",
    "modelsync_daemon.transfer.origin_secret",
    "modelsync_daemon.transfer.pushed_origin",
    "modelsync_daemon.workers.messages",
)
"""What resident and workers both use, with all that it imports."""


class ZygoteGone(OSError):
    """The zygote is dead; workers have to be started in another way."""


class ForkedChild:
    """A forked worker: its stdin and stdout as streams. One at a time per zygote."""

    def __init__(
        self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, control: socket.socket
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._control = control
        self._status: int | None = None

    def kill(self) -> None:
        """SIGKILL; nothing happens if it has ended."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Return code as subprocess gives it: the exit code, or minus the signal."""
        if self._status is None:
            data = await asyncio.get_running_loop().sock_recv(self._control, _NUMBER.size)
            self._status = _NUMBER.unpack(data)[0] if len(data) == _NUMBER.size else -signal.SIGKILL
            self.stdin.close()
        return self._status


class Zygote:
    """The resident's handle on its zygote."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    @classmethod
    def start(cls) -> Zygote:
        """Fork the zygote, once what it shares is imported; before other imports, threads and event loops."""
        gc.collect()  # what the command line left makes room for what is imported now
        lean_imports.import_aiohttp()
        for name in _SHARED:
            import_module(name)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # collections would touch, and so copy, every shared page
        if os.fork() == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        ours.setblocking(False)
        return cls(ours)

    async def spawn(self, lock: int, *, ahead: bool = False) -> ForkedChild:
        """Fork a worker that inherits the descriptor `lock`; `ahead` of its job, for which it imports already.

        Raises ZygoteGone.
        """
        child_in, our_out = os.pipe()
        our_in, child_out = os.pipe()
        loop = asyncio.get_running_loop()
        try:
            socket.send_fds(self._control, [_AHEAD if ahead else _FORK], [child_in, child_out, lock])
            data = await self._answer()
        except BaseException as error:
            os.close(our_in)
            os.close(our_out)
            if isinstance(error, OSError):
                raise ZygoteGone(str(error)) from error
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        if len(data) != _NUMBER.size:
            os.close(our_in)
            os.close(our_out)
            raise ZygoteGone("the zygote has ended")
        reader = asyncio.StreamReader(limit=1024 * 1024)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(our_in, "rb"))
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(), os.fdopen(our_out, "wb")
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        return ForkedChild(_NUMBER.unpack(data)[0], writer, reader, self._control)

    async def _answer(self) -> bytes:
        """The new worker's number. One that nobody waits for any more is ended: what is said of it is read in order."""
        loop = asyncio.get_running_loop()
        answer = asyncio.ensure_future(loop.sock_recv(self._control, _NUMBER.size))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, struct.error):
                os.kill(_NUMBER.unpack(await answer)[0], signal.SIGKILL)
                await loop.sock_recv(self._control, _NUMBER.size)
            raise

    def close(self) -> None:
        """End the zygote (and a worker of its, if one runs)."""
        self._control.close()


def _serve(control: socket.socket) -> NoReturn:
    """The zygote's life: fork a worker for each message, and say how it ended.

    It imports what a job needs once, while the resident starts, so that no worker does after a notice. python-tuf's
    cryptography, which would be six times as much memory while idle, is left to each worker's child.
    """
    lifetime.die_with_parent()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    from modelsync_daemon.workers import worker

    worker.import_what_a_job_needs()
    layers.plan()  # found out once, and known to every worker
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, _FDS)
            if not message:
                break
            pid = os.fork()
            if pid == 0:
                _become_worker(control, descriptors, ahead=message == _AHEAD)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(_NUMBER.pack(pid))
            control.send(_NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def _become_worker(control: socket.socket, descriptors: list[int], *, ahead: bool) -> NoReturn:
    code = 1
    try:
        control.close()
        os.dup2(descriptors[0], 0)
        os.dup2(descriptors[1], 1)
        sys.stdin = os.fdopen(0, "r", closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        from modelsync_daemon.workers import worker  # imported by now

        worker.main(ahead=ahead)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    finally:
        os._exit(code)
