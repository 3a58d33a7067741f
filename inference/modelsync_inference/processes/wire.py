"""Messages between the server and its worker processes: a JSON header, then the tensors' bytes. Trusted by neither.

Layout: two 32-bit big-endian lengths (header, number of tensors is in the header), the header, each tensor's bytes.
Nothing is unpickled: a worker runs models that somebody else made.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError
from modelsync_inference.runtimes.datatypes import BYTES, Array, datatype_of, numpy_dtype
from modelsync_inference.runtimes.tensors import from_binary, to_binary

_PREFIX = struct.Struct(">I")
_MAX_HEADER_BYTES = 1 << 20
_MAX_TENSOR_BYTES = 1 << 31
_MAX_PARTS = 64


class Ended(Exception):
    """The other side is gone, or says what nobody should say."""


def send(channel: socket.socket, header: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Send one message; Ended if nobody listens any more, TimeoutError as the socket has it."""
    entries, parts = [], []
    for name, array in tensors.items():
        datatype = datatype_of(array)
        raw: bytes | memoryview
        if datatype == BYTES or array.size == 0 or array.dtype.byteorder == ">":
            raw = to_binary(array)
        else:
            raw = np.ascontiguousarray(array).data.cast("B")
        entries.append([name, datatype, list(array.shape), len(raw)])
        parts.append(raw)
    head = json.dumps({**header, "tensors": entries}, separators=(",", ":")).encode()
    try:
        _send_all(channel, [_PREFIX.pack(len(head)), head, *parts])
    except TimeoutError:
        raise
    except OSError as error:
        raise Ended(str(error)) from error


def receive(
    channel: socket.socket, *, seconds: float | None = None, limit: int = _MAX_TENSOR_BYTES
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Receive one message whose tensors have at most `limit` bytes together; Ended at the end of the connection.

    TimeoutError: after `seconds`, however the bytes come in; None: as the socket has it.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        (length,) = _PREFIX.unpack(_exactly(channel, _PREFIX.size, deadline))
        if length > _MAX_HEADER_BYTES:
            raise Ended("a header is too long.")
        header = json.loads(_exactly(channel, length, deadline))
        tensors = {}
        for name, datatype, shape, size in header.pop("tensors"):
            limit -= size
            if size < 0 or limit < 0:
                raise Ended("its tensors are too large.")
            tensors[str(name)] = _tensor(channel, str(name), datatype, shape, size, deadline)
        return header, tensors
    except TimeoutError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        RecursionError,
        MemoryError,
        OverflowError,
        InputError,
    ) as error:
        raise Ended(str(error)) from error


def _tensor(
    channel: socket.socket, name: str, datatype: str, shape: list[int], size: int, deadline: float | None
) -> Array:
    if any(type(length) is not int or length < 0 for length in shape):
        raise Ended("a tensor has an impossible shape.")
    if datatype == BYTES:
        return from_binary(name, shape, datatype, bytes(_exactly(channel, size, deadline)))
    dtype = numpy_dtype(datatype)
    if math.prod(shape) * dtype.itemsize != size:
        raise Ended("a tensor's size does not fit its shape.")
    array = np.empty(shape, dtype=dtype)
    if size:
        _fill(channel, array.reshape(-1).data.cast("B"), deadline)
    return array


def _send_all(channel: socket.socket, parts: list[bytes | memoryview]) -> None:
    while parts:
        sent = channel.sendmsg(parts[:_MAX_PARTS])
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = memoryview(parts[0])[sent:]


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    _fill(channel, memoryview(data), deadline)
    return data


def _fill(channel: socket.socket, view: memoryview, deadline: float | None) -> None:
    while view:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        count = channel.recv_into(view)
        if count == 0:
            raise Ended("the other side hung up.")
        view = view[count:]
