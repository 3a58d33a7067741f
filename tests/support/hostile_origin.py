"""An origin that does exactly what a test says, byte by byte: wrong statuses, broken headers, cuts at any offset.

It serves a store's directory over HTTP or TLS and writes its answers itself, so that nothing between repairs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class End(Enum):
    """How an answer ends: in order, by an end of stream (under TLS without close_notify), by a reset, or never."""

    CLOSE = "close"
    CUT = "cut"
    RESET = "reset"
    HANG = "hang"


Step = bytes | float | End
"""Send these bytes, wait so many seconds, or end the connection."""


@dataclass(slots=True)
class Reply:
    """An honest answer, which a fault changes before it is sent."""

    method: str
    path: str
    asked: dict[str, str]
    """The request's headers; names in small letters."""
    whole: bytes
    status: int
    body: bytes
    headers: dict[str, str]
    steps: Sequence[Step] | None = None
    number: int = 0
    """The how-manieth answer that a fault changes, if its owner counts."""
    sent: int = 0
    """Bytes handed to the kernel, headers included."""

    def raw(self) -> bytes:
        """Status line, headers and body as they go out."""
        lines = [f"HTTP/1.1 {self.status} Said", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if self.method == "HEAD" else self.body)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer this instead; underscores in `headers` stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status, self.body, self.headers = status, body, {"Content-Length": str(len(body)), **named}


@dataclass
class HostileOrigin:
    """Serves `store` at 127.0.0.1; `fault` changes replies (honest by default), `replies` holds all that were sent."""

    store: Path
    fault: Callable[[Reply], None] = lambda reply: None
    context: ssl.SSLContext | None = None
    replies: list[Reply] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> HostileOrigin:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer):
                    pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        """Send one reply; False if the connection is not to be used again."""
        first, *lines = head.split("\r\n")
        method, target = first.split()[:2]
        asked = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        reply = self._honest(method, target.lstrip("/").partition("?")[0], asked)
        self.replies.append(reply)
        self.fault(reply)
        for step in [reply.raw()] if reply.steps is None else reply.steps:
            if isinstance(step, bytes):
                writer.write(step)
                reply.sent += len(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await _end(step, writer)
                return False
        return True

    def _honest(self, method: str, path: str, asked: dict[str, str]) -> Reply:
        file = self.store / path
        whole = file.read_bytes() if file.is_file() else b""
        tag = f'"{len(whole)}"'
        reply = Reply(method, path, asked, whole, 200, whole, {"Content-Length": str(len(whole)), "ETag": tag})
        match = _RANGE.fullmatch(asked.get("range", ""))
        if not file.is_file():
            reply.answer(404)
        elif match and asked.get("if-range", tag) == tag:
            begin, last = int(match[1]), min(int(match[2] or len(whole)), len(whole) - 1)
            if begin >= len(whole):
                reply.answer(416, Content_Range=f"bytes */{len(whole)}")
            else:
                reply.answer(206, whole[begin : last + 1], ETag=tag, Content_Range=f"bytes {begin}-{last}/{len(whole)}")
        return reply


async def _end(end: End, writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if end is End.HANG:
        await asyncio.Event().wait()
    elif end is End.RESET:
        await asyncio.sleep(0.02)  # what was sent before is to arrive, not to be lost with the reset
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif end is End.CUT:
        raw.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        writer.transport.abort()
