"""What worker processes are forked from: a process that has imported the runtime and has one thread.

Forking takes a millisecond or two and shares the runtime's code and data; starting Python and importing ONNX Runtime
takes half a second. The command `modelsync-infer` forks workers off its supervisor; a HotModel in an application
starts this module as a process of its own, which ends when its parent does.
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
from collections.abc import Callable

from modelsync_inference.confinement import inheritance, reader
from modelsync_inference.processes import onnx_worker, worker
from modelsync_inference.runtimes import onnx_host

_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE = 4096
_MAX_CHANNELS = 256


def main() -> None:
    """Serve the socket whose descriptor is the first argument, until its other end is closed."""
    forks = Forks(socket.socket(fileno=int(sys.argv[1])))
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent drains first; it closes the socket when it is done
        signal.signal(number, signal.SIG_IGN)
    get_ready()
    forks.requests.send(b'{"ready":true}')
    while forks.answer():
        pass


def get_ready() -> None:
    """Set up, before the first fork, what every worker would have to set up."""
    with onnx_host.without_schema_noise():
        onnx_worker.warm_up()
    reader.available()  # finds libseccomp, once for all workers
    gc.collect()
    gc.freeze()  # so that a child's collector does not write to pages that it shares with us


class Forks:
    """Answers a spawner's requests on `requests`: forks workers and reaps them. `children`: those not reaped yet.

    `forget` is called in every new worker, to let go of what is the parent's.
    """

    def __init__(self, requests: socket.socket, forget: Callable[[], None] = lambda: None) -> None:
        self.requests, self._forget = requests, forget
        self.children: set[int] = set()

    def answer(self) -> bool:
        """Answer one request, waiting for it; False at the end of the line."""
        message, descriptors, _, _ = socket.recv_fds(self.requests, _MAX_MESSAGE, _MAX_CHANNELS)
        if not message:
            return False
        request = json.loads(message)
        if "reap" in request:
            pid = int(request["reap"])
            status = reap(pid) if pid in self.children else 0
            self.children.discard(pid)
            self.requests.send(json.dumps({"status": status}).encode())
            return True
        pid = os.fork()
        if pid == 0:
            self.requests.close()
            _become_worker(descriptors, self._forget)
        for descriptor in array.array("i", descriptors):
            os.close(descriptor)
        self.children.add(pid)
        self.requests.send(json.dumps({"pid": pid}).encode())
        return True

    def close(self) -> None:
        """End every worker that is left."""
        self.requests.close()
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            reap(pid)
        self.children.clear()


def reap(pid: int) -> int:
    """Wait for a child that is dead or dying; its exit code, or minus the signal that ended it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _become_worker(descriptors: list[int], forget: Callable[[], None]) -> None:
    code = 1
    with contextlib.suppress(BaseException):
        die_with_parent()
        forget()
        inheritance.keep_descriptors(descriptors)
        inheritance.forget_environment()
        worker.serve([socket.socket(fileno=descriptor) for descriptor in descriptors], onnx_worker.prepare)
        code = 0
    os._exit(code)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # the parent was killed before it had its answer
        main()
