"""The process that worker processes are forked from: it has imported the runtime and does nothing else.

Forking from it takes a millisecond or two and shares the runtime's code and data; starting Python and importing ONNX
Runtime takes half a second. It has one thread, so a fork is safe; it ends when its parent does.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys

from modelsync_inference import worker

_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE = 4096
_MAX_CHANNELS = 256


def main() -> None:
    """Serve the socket whose descriptor is the first argument, until its other end is closed."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent drains first; it closes the socket when it is done
        signal.signal(number, signal.SIG_IGN)
    worker.warm_up()
    gc.collect()
    gc.freeze()  # so that a child's collector does not write to pages that it shares with us
    requests.send(b'{"ready":true}')
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_MESSAGE, _MAX_CHANNELS)
        if not message:
            return
        request = json.loads(message)
        if "reap" in request:
            requests.send(json.dumps({"status": _reap(request["reap"])}).encode())
            continue
        pid = os.fork()
        if pid == 0:
            requests.close()
            _become_worker(descriptors)
        for descriptor in array.array("i", descriptors):
            os.close(descriptor)
        requests.send(json.dumps({"pid": pid}).encode())


def _become_worker(descriptors: list[int]) -> None:
    code = 1
    with contextlib.suppress(BaseException):
        _die_with_parent()
        worker.serve([socket.socket(fileno=descriptor) for descriptor in descriptors])
        code = 0
    os._exit(code)


def _reap(pid: int) -> int:
    """Wait for a child that is dead or dying; its exit code, or minus the signal that ended it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # the parent was killed before it had its answer
        main()
