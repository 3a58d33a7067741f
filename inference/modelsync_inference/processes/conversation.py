"""An answer in parts between the server and a worker: either may end it. It knows no model files and no HTTP.

The server sends {"generate": true} with the request; the worker sends a message for each part and one at the end
({"done": true}, or what went wrong). By STOP the server says meanwhile that it wants no more.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelsync_inference.errors import InputError
from modelsync_inference.processes import wire
from modelsync_inference.runtimes.datatypes import Array
from modelsync_inference.runtimes.port import Generating
from modelsync_protocol.errors import ModelsyncError

STOP = {"stop": True}
"""May arrive when the answer has come to its end by itself, and means nothing then."""
_PART = "part"
_LAST_SECONDS = 30.0
"""How long a worker that was told to stop may go on with what it has begun: a token, a piece of a prompt."""


def answer_in_parts(channel: socket.socket, model: Generating, feeds: Mapping[str, Array]) -> None:
    """In the worker: answer, until nobody wants more. wire.Ended."""

    def emit(part: bytes) -> bool:
        if select.select([channel], [], [], 0)[0]:
            wire.receive(channel)
            return False
        wire.send(channel, {}, {_PART: _tensor(part)})
        return True

    try:
        model.generate(bytes(feeds[_PART].ravel()[0]), emit)
    except InputError as error:
        wire.send(channel, {"input": str(error)}, {})
    except ModelsyncError as error:
        wire.send(channel, {"broke": str(error)}, {})
    else:
        wire.send(channel, {"done": True}, {})


def ask_in_parts(
    channel: socket.socket, request: bytes, emit: Callable[[bytes], bool], seconds: float, limit: int
) -> dict[str, Any]:
    """In the server: the header of the last message, after every part went to `emit`; at most `limit` bytes a part.

    After `seconds` in all the worker is told to stop, and InputError says so: whoever asks for a long answer is no
    reason to end the process, in which others are answered. TimeoutError if it goes on for `_LAST_SECONDS`; wire.Ended.
    """
    deadline, wanted = time.monotonic() + seconds, True
    failed: BaseException | None = None
    channel.settimeout(seconds)
    wire.send(channel, {"generate": True}, {_PART: _tensor(request)})
    while True:
        try:
            header, tensors = _receive(channel, deadline, limit)
        except TimeoutError:
            if not wanted:
                raise
            failed = InputError(
                f"the answer was not complete after {seconds:g} s; ask for fewer tokens (max_tokens), or give answers "
                "more time (--generation-seconds)."
            )
            wanted = False
        else:
            if _PART not in tensors:
                if failed is not None:
                    raise failed
                return header
            if not wanted:
                continue
            try:
                wanted = emit(bytes(tensors[_PART].ravel()[0]))
            except BaseException as error:  # the channel must not be left in the middle of an answer
                wanted, failed = False, error
        if not wanted:
            deadline = time.monotonic() + _LAST_SECONDS
            wire.send(channel, STOP, {})


def _receive(channel: socket.socket, deadline: float, limit: int) -> tuple[dict[str, Any], Mapping[str, Array]]:
    """One message; TimeoutError if none begins before the `deadline`: it is not left in the middle of one."""
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([channel], [], [], left)[0]:
        raise TimeoutError
    return wire.receive(channel, seconds=_LAST_SECONDS, limit=limit)


def _tensor(part: bytes) -> Array:
    array = np.empty(1, dtype=np.object_)
    array[0] = part
    return array
