"""The worker child: one JSON job on stdin, JSON lines on stdout, and it never outlives its parent.

It inherits the data directory's lock, so that no new daemon starts while it still writes. Before it reads a byte from
outside it gives up what fetching and building don't need (confinement/layers.py); secrets' files are its parent's, who
answers the event `secret` with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsync_daemon.confinement import lifetime

if TYPE_CHECKING:
    from modelsync_daemon.trust.trust_process import TrustChild

_OF_A_JOB = (
    "_strptime",  # by datetime.strptime, for the dates of metadata
    "modelsync_daemon.disk.database",
    "modelsync_daemon.trust.trust_process",
    "modelsync_daemon.workers.bounds",
    "modelsync_daemon.workers.job_runner",
    "modelsync_daemon.workers.messages",
    "modelsync_protocol.bundle",
    "modelsync_protocol.requirements.terms",
)
_OF_A_CHECK = (
    "modelsync_daemon.trust.publishers_only",
    "securesystemslib._vendor.ed25519.ed25519",
    "securesystemslib.formats",
    "securesystemslib.storage",
    "tuf.api.exceptions",
)
"""Parts of what checking imports that bring no cryptography: 140 KiB. With it they would be 9 MiB."""
_NICENESS = 10
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1024 * 1024
"""What is larger comes straight from the system and goes back; what is smaller is used again, for a fresh page costs as
much time as decoding into it: with 128 KiB here a float32 update takes a sixth more."""


def main(*, ahead: bool = False) -> None:
    """`python -m modelsync_daemon.workers.worker`: exits 0 after a result or an error event.

    `ahead`: all that can be done before there is a job is done: it gives up what no job needs, and its child imports.
    """
    lifetime.die_with_parent()
    line = b"" if ahead else sys.stdin.buffer.readline()
    if not line and not ahead:
        sys.exit(0)
    from modelsync_daemon.confinement import layers
    from modelsync_daemon.trust.trust_process import TrustChild
    from modelsync_daemon.workers import lean_imports

    logging.getLogger().handlers[:] = [_Relay()]
    layers.plan()
    trust = TrustChild.start()
    layers.forget_environment()
    os.nice(_NICENESS)
    stay_small()
    lean_imports.import_aiohttp()
    if ahead:
        line = sys.stdin.buffer.readline()
        if not line:
            sys.exit(0)
    try:
        outcome = _work(json.loads(line), trust)
    except Exception as error:  # any error becomes an event: a traceback would help nobody
        from modelsync_daemon.workers.messages import kind_of
        from modelsync_protocol.errors import ModelsyncError

        known = isinstance(error, ModelsyncError)
        text = str(error) if known else f"the worker failed: {type(error).__name__}: {error}."
        about = {key: getattr(error, key) for key in ("after", "version", "digest") if hasattr(error, key)}
        _emit({"event": "error", "kind": kind_of(error), "text": text, **about})
    else:
        _emit({"event": "result", "outcome": outcome})


def import_what_a_job_needs() -> None:
    """For the process that workers are forked from. python-tuf's cryptography is left to each worker's child."""
    for name in _OF_A_JOB:
        import_module(name)
    for name in _OF_A_CHECK:
        with contextlib.suppress(ImportError):  # another release's are imported by the child, wherever they lie
            import_module(name)


def _work(document: Mapping[str, Any], trust: TrustChild) -> Mapping[str, Any]:
    from dataclasses import asdict

    from modelsync_daemon.disk.database import Database
    from modelsync_daemon.disk.datadir import DataDir
    from modelsync_daemon.workers import bounds
    from modelsync_daemon.workers.job_runner import run
    from modelsync_daemon.workers.messages import Job

    job = Job.parse(document)
    database = Database(DataDir(Path(job.data)).state_db)
    try:
        bounds.confine(job, database)
        # Threads inherit what was given up, so there is none before. The parent holds our stdin open as long as it
        # lives: its end is the order to stop at once.
        secrets = _Secrets()
        threading.Thread(target=secrets.listen, daemon=True).start()
        return asdict(asyncio.run(run(job, database, _emit, trust.open, secrets.read)))
    finally:
        database.close()


class _Secrets:
    """Has the parent read files that this process can't; and ends this process when the parent is gone."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen(self) -> None:
        """Take in the parent's lines; never returns."""
        for line in sys.stdin.buffer:
            self._answers.put(line)
        os._exit(1)

    def read(self, path: Path) -> str | None:
        """What the file of a secret holds now; None if it can't be read."""
        _emit({"event": "secret", "path": str(path)})
        text = json.loads(self._answers.get())["text"]
        return text if isinstance(text, str) else None


class _Relay(logging.Handler):
    """Hands warnings to the parent, who writes them in its own form."""

    def emit(self, record: logging.LogRecord) -> None:
        _emit({"event": "log", "level": record.levelno, "text": record.getMessage()})


def _emit(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def stay_small() -> None:
    """One heap, big buffers straight from and back to the system, no pools of BLAS threads; and die before others."""
    libc = ctypes.CDLL(None)
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES)):
        if hasattr(libc, "mallopt"):
            libc.mallopt(option, value)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    main()
