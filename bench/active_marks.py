"""`modelsyncd` with marks: a line on stderr for each call of what is named below, in whichever of its processes.

`python -m bench.active_marks ARGUMENTS` does what `modelsyncd ARGUMENTS` does. A line is the word @mark, what was
called, the process, and the begin and end by the clock that all processes of a machine share, in nanoseconds. Nothing
of modelsync knows of it: each module's functions are wrapped as soon as it is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple

_MARKED = {
    "modelsync_daemon.control.hub_link": ("HubLink._on_hint", "HubLink._read"),
    "modelsync_daemon.workers.worker_client": ("ChildPreparer._prepare", "ChildPreparer._start"),
    "modelsync_daemon.workers.worker": ("main", "_work"),
    "modelsync_daemon.workers.bounds": ("confine", "confine_all"),
    "modelsync_daemon.workers.job_runner": ("run",),
    "modelsync_daemon.trust.trust_process": ("TrustChild.resolve",),
    "modelsync_daemon.trust.trust_store": ("TrustStore.resolve",),
    "modelsync_daemon.transfer.origin_client": ("Origin._request",),
    "modelsync_daemon.build.update_choice": ("choose_update",),
    "modelsync_daemon.build.target_tree": ("Assembly.prepare", "Assembly.finish"),
    "modelsync_daemon.disk.journal": ("Build.begin",),
    "modelsync_daemon.disk.database": ("Database.transaction",),
    "modelsync_daemon.activate.activation": ("Activation._probe", "Activation._point"),
    "modelsync_protocol.codecs": ("decode",),
    "tuf.ngclient._internal.trusted_metadata_set": (
        "TrustedMetadataSet.update_root",
        "TrustedMetadataSet.update_timestamp",
        "TrustedMetadataSet.update_snapshot",
        "TrustedMetadataSet.update_delegated_targets",
    ),
}
_LINE = re.compile(rb"@mark (\S+) (\d+) (\d+) (\d+)\n")


class Mark(NamedTuple):
    """One call: `name` as in the table above (without the class), process, begin and end in seconds."""

    name: str
    pid: int
    begin: float
    end: float


def read(log: bytes) -> list[Mark]:
    """The marks in what a process wrote to stderr."""
    return [
        Mark(name.decode(), int(pid), int(begin) / 1e9, int(end) / 1e9) for name, pid, begin, end in _LINE.findall(log)
    ]


@contextlib.contextmanager
def _marked(name: str) -> Iterator[None]:
    begin = time.monotonic_ns()
    try:
        yield
    finally:
        os.write(2, b"@mark %s %d %d %d\n" % (name.encode(), os.getpid(), begin, time.monotonic_ns()))


def _wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(call, "__wrapped__") and inspect.isgeneratorfunction(call.__wrapped__):

        @contextlib.contextmanager
        def managing(*args: Any, **options: Any) -> Iterator[Any]:
            with _marked(name), call(*args, **options) as value:
                yield value

        return managing
    if asyncio.iscoroutinefunction(call):

        @functools.wraps(call)
        async def awaiting(*args: Any, **options: Any) -> Any:
            with _marked(name):
                return await call(*args, **options)

        return awaiting

    @functools.wraps(call)
    def calling(*args: Any, **options: Any) -> Any:
        with _marked(name):
            return call(*args, **options)

    return calling


def _mark_all(module: ModuleType) -> None:
    for path in _MARKED.get(module.__name__, ()):
        owner, _, name = path.rpartition(".")
        place = getattr(module, owner) if owner else module
        setattr(place, name, _wrapped(name if name != "main" else "worker", getattr(place, name)))


def main() -> None:
    """Go on as modelsyncd."""
    execute = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        execute(self, module)
        _mark_all(module)

    SourceFileLoader.exec_module = exec_module  # type: ignore[assignment, method-assign]
    os.fsync, os.fdatasync = _wrapped("sync", os.fsync), _wrapped("sync", os.fdatasync)
    from modelsync_daemon.cli import main as modelsyncd

    sys.argv[0] = "modelsyncd"
    modelsyncd()


if __name__ == "__main__":
    main()
