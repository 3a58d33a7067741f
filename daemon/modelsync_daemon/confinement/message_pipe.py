"""Messages between a process and a child that it forked and confines: bytes behind their length, either way.

What `multiprocessing.connection` does, without what that imports: a worker has a MiB more for its decoders, and starts
some milliseconds earlier.
"""

from __future__ import annotations

import os
import socket
import struct

_LENGTH = struct.Struct("!Q")
_READ_BYTES = 64 * 1024


class MessagePipe:
    """One end. It blocks, and belongs to one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor, which `close` closes."""
        return self._descriptor

    def send_bytes(self, message: bytes) -> None:
        """Send one message. BrokenPipeError or ConnectionResetError if the other end is closed."""
        view = memoryview(_LENGTH.pack(len(message)) + message)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def recv_bytes(self, limit: int | None = None) -> bytes:
        """The next message. EOFError if the other end is closed; OSError if it is longer than `limit` bytes."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if limit is not None and length > limit:
            raise OSError(f"a message of {length} bytes where {limit} are the most")
        return self._exactly(length)

    def close(self) -> None:
        """Close this end; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _exactly(self, count: int) -> bytes:
        found = bytearray()  # not a list: one who sends a byte at a time would have each held as an object
        while len(found) < count:
            part = os.read(self._descriptor, min(count - len(found), _READ_BYTES))
            if not part:
                raise EOFError
            found += part
        return bytes(found)


def pair() -> tuple[MessagePipe, MessagePipe]:
    """Two ends; neither is inherited by another program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return MessagePipe(ours.detach()), MessagePipe(theirs.detach())
