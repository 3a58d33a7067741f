"""A TCP relay that counts, slows, delays, stalls and cuts a line. It looks at no byte that it carries.

Two pumps a connection: "up" carries client to target, "down" target to client. Each is a reader and a writer with
a bounded queue between them, so that `delay` costs latency and not throughput. A byte counts when the kernel has
taken it for the receiving side; what a later cut destroys in the kernel's buffers stays counted.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

Direction = Literal["up", "down"]

PIECE_BYTES = 16 * 1024
"""Most bytes that are read at once."""

QUEUE_PIECES = 16
"""Pieces that may wait in a pump; with PIECE_BYTES it bounds what a line with a `delay` carries per `delay`."""

SLICE_SECONDS = 0.05
"""A limited line sends in slices of so many seconds, so that a new rate takes effect within one."""

_Queue = asyncio.Queue[tuple[float, bytes]]
"""Pieces with the loop time when each is due; the empty piece is the end of the stream."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Payload bytes in each direction and accepted connections so far; `later - earlier` is what lay between."""

    up: int
    down: int
    connections: int

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.up - earlier.up, self.down - earlier.down, self.connections - earlier.connections)


@dataclass(slots=True)
class Connection:
    """One accepted connection: payload bytes in each direction, and whether it is still open."""

    carried: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    open: bool = True


class Relay:
    """`async with Relay(host, port) as relay:` listens on `relay.host`:`relay.port` and carries to the target.

    Everything is to be called on the relay's own event loop. All knobs may be turned while connections are open.
    A target that can't be reached shows as a reset connection. Leaving the context resets what is open.
    """

    def __init__(self, target_host: str, target_port: int, host: str = "127.0.0.1", port: int = 0) -> None:
        """Nothing listens before the context is entered; `port` 0: any free one (`self.port` then says which)."""
        self.host, self.port = host, port
        self.delay = 0.0
        """Seconds that each piece is held back, in each direction; a round trip costs two."""
        self.connections: list[Connection] = []
        """Every accepted connection, in order; those that were refused are not in it."""
        self._target = (target_host, target_port)
        self._limits: dict[Direction, _Limit] = {"up": _Limit(), "down": _Limit()}
        self._carried: dict[Direction, int] = {"up": 0, "down": 0}
        self._cut_at: dict[Direction, int] = {}
        self._cut_refuses = False
        self._refusing = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._serving: dict[asyncio.Task[None], Connection] = {}
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None

    @property
    def refusing(self) -> bool:
        """Whether new connections are reset, after a cut with `refuse`."""
        return self._refusing

    @property
    def rate(self) -> float | None:
        """Bytes a second that all connections together may carry in each direction; None: no limit."""
        return self._limits["down"].rate

    @rate.setter
    def rate(self, value: float | None) -> None:
        if value is not None and value <= 0:
            raise ValueError("a rate is positive or None; use stall() for a line that carries nothing")
        for limit in self._limits.values():
            limit.rate = value

    def counts(self) -> Counts:
        """The totals so far, closed connections included."""
        return Counts(self._carried["up"], self._carried["down"], len(self.connections))

    def cut(self, *, refuse: bool = False) -> None:
        """Carry no byte more on open connections and reset (RST) both their sides within a few loop steps.

        With `refuse`, new connections are accepted and reset at once, until `restore()`.
        """
        self._refusing = self._refusing or refuse
        self._cut_at.clear()
        for task, connection in self._serving.items():
            connection.open = False
            task.cancel()

    def cut_after(self, count: int, direction: Direction = "down", *, refuse: bool = False) -> None:
        """`cut(refuse=refuse)` as soon as `count` more bytes (> 0) went in `direction`, over all connections.

        No byte beyond them gets through. A cut of any kind ends what was asked for here.
        """
        if count <= 0:
            raise ValueError("count is positive; use cut() to cut at once")
        self._cut_at = {direction: self._carried[direction] + count}
        self._cut_refuses = refuse

    def restore(self) -> None:
        """Accept connections again after a cut with `refuse`."""
        self._refusing = False

    def stall(self) -> None:
        """Carry nothing, but keep connections open and accept new ones, until `resume()`."""
        self._flowing.clear()

    def resume(self) -> None:
        """End a stall; what waited goes on its way."""
        self._flowing.set()

    async def __aenter__(self) -> Relay:
        listener = socket.create_server((self.host, self.port), backlog=128)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._acceptor = asyncio.create_task(self._accept(listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None and self._acceptor is not None
        tasks = [self._acceptor, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            if self._refusing:
                _reset(client)
                continue
            connection = Connection()
            self.connections.append(connection)
            task = asyncio.create_task(self._serve(client, connection))
            self._serving[task] = connection

            def ended(
                task: asyncio.Task[None], client: socket.socket = client, connection: Connection = connection
            ) -> None:
                # Not in _serve: a task that is cancelled before its first step runs none of its own code.
                _reset(client)
                connection.open = False
                del self._serving[task]

            task.add_done_callback(ended)

    async def _serve(self, client: socket.socket, connection: Connection) -> None:
        """Carry one connection to its orderly end. After a cut or a fault the target is reset, the client too."""
        target = socket.socket()
        target.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(target, self._target)
            async with asyncio.TaskGroup() as pumps:
                up, down = _Queue(QUEUE_PIECES), _Queue(QUEUE_PIECES)
                pumps.create_task(self._read(client, up))
                pumps.create_task(self._write(up, target, "up", connection))
                pumps.create_task(self._read(target, down))
                pumps.create_task(self._write(down, client, "down", connection))
            client.close()
            target.close()
        except* OSError:
            # Either side went away; the other learns it by the reset below, as it would from a broken line.
            pass
        finally:
            _reset(target)

    async def _read(self, source: socket.socket, queue: _Queue) -> None:
        loop = asyncio.get_running_loop()
        piece = b"-"
        while piece:
            piece = await loop.sock_recv(source, PIECE_BYTES)
            await queue.put((loop.time() + self.delay, piece))

    async def _write(self, queue: _Queue, sink: socket.socket, direction: Direction, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                await self._flowing.wait()
                if connection.open:
                    sink.shutdown(socket.SHUT_WR)
                return
            rest = memoryview(piece)
            while rest:
                await self._limits[direction].wait()
                await self._flowing.wait()
                if sent := self._send(rest, sink, direction, connection):
                    rest = rest[sent:]
                else:
                    await _writable(sink)

    def _send(self, data: memoryview, sink: socket.socket, direction: Direction, connection: Connection) -> int:
        """Send what limit, pending cut and kernel let through now; count it; cut if it is time. Never waits.

        0 means that the kernel (or a cut meanwhile) took nothing.
        """
        if not connection.open:
            return 0
        most = min(len(data), self._limits[direction].slice())
        if direction in self._cut_at:
            most = min(most, self._cut_at[direction] - self._carried[direction])
        try:
            sent = sink.send(data[:most])
        except BlockingIOError:
            return 0
        self._limits[direction].spend(sent)
        self._carried[direction] += sent
        connection.carried[direction] += sent
        if self._carried[direction] == self._cut_at.get(direction):
            self.cut(refuse=self._cut_refuses)
        return sent


class _Limit:
    """A token bucket over the loop's clock that holds at most SLICE_SECONDS' worth of tokens."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._free_at = 0.0

    async def wait(self) -> None:
        """Return when the next slice may go; a rate set meanwhile counts within SLICE_SECONDS."""
        clock = asyncio.get_running_loop().time
        while self.rate is not None and (gap := self._free_at - clock()) > 0:  # noqa: ASYNC110 - waits for the clock
            await asyncio.sleep(min(gap, SLICE_SECONDS))

    def slice(self) -> int:
        """Most bytes that may go at once."""
        return PIECE_BYTES if self.rate is None else max(1, int(self.rate * SLICE_SECONDS))

    def spend(self, count: int) -> None:
        """`count` bytes went."""
        if self.rate is not None:
            earliest = asyncio.get_running_loop().time() - SLICE_SECONDS
            self._free_at = max(self._free_at, earliest) + count / self.rate


async def _writable(sock: socket.socket) -> None:
    """Return when `sock` takes bytes again."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():  # the loop may report a socket twice before the waiter runs
        ready.set_result(None)


def _reset(sock: socket.socket) -> None:
    """Close `sock` so that its peer gets a RST (linger zero); nothing if it is closed already."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
