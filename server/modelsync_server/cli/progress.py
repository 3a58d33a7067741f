"""How far a command is, on stderr: a bar on a terminal, JSON objects a line with `--progress json`, else nothing.

A bar has stage, bytes, rate and time left, and shows itself only once a command has taken a second, so that quick ones
stay quiet. Rate and time left are of the current stage.

What shows how far it is can be interrupted too: Ctrl-C ends it within a second or two, in whatever thread or C code it
is, and leaves neither a half-written object in a store nor temporary files.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from modelsync_server.cli.options import ProgressForm as Form
from modelsync_server.store import durable

_QUIET_SECONDS = 1.0
_EVENT_SECONDS = 0.5
"""Events of one stage are at least so far apart, and so are stages that only count ("version 3 of 900"); the first and
the last of a stage with bytes are always told."""

_NUMBER = re.compile(r"[0-9]+")

_GRACE_SECONDS = 1.0
"""How long the work may take to unwind after Ctrl-C; then it is left where it is."""

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

AGAIN = "interrupted: run it again, and what is done already is not done twice."


@contextmanager
def shown(
    form: Form, command: str, sentence: str = "interrupted.", *, last: bool = True
) -> Iterator[Callable[[str, int, int], None]]:
    """Tell how far `command` is: yields `update(stage, done, total)`, which may be called from any thread.

    On SIGINT the process ends with code 130 and `sentence`. Temporary files made in the block lie in one folder, which
    is removed with it. Main thread only. `last`: the command ends with this block.
    """
    teller = Events(command) if form is Form.JSON else Bar(form)
    once = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="modelsync-", ignore_cleanup_errors=True) as scratch:

        def leave() -> None:
            if once.acquire(blocking=False):
                teller.close()
                durable.abandon()
                shutil.rmtree(scratch, ignore_errors=True)
                sys.stderr.write(f"modelsync: {sentence}\n")
                sys.stderr.flush()
                os._exit(INTERRUPTED)  # other threads may be in the middle of minutes of work
            time.sleep(60)  # somebody else is leaving

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            last = threading.Timer(_GRACE_SECONDS, leave)
            last.daemon = True
            last.start()
            try:
                running = asyncio.get_running_loop()
            except RuntimeError:
                raise KeyboardInterrupt from None
            # Raised anywhere in a loop it may be lost, in a callback of the garbage collector's for one.
            running.call_soon_threadsafe(_cancel_all, running)

        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:  # else whoever started us wants it ignored
            signal.signal(signal.SIGINT, interrupt)
        try:
            with _temporary_files_in(scratch):
                teller.open()
                yield teller.update
        except (KeyboardInterrupt, asyncio.CancelledError):
            leave()
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            teller.close()
        if last:
            teller.done()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Ours, and those of processes that we start."""
    before, said = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir, os.environ["TMPDIR"] = folder, folder
    try:
        yield
    finally:
        tempfile.tempdir = before
        if said is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = said


class Bar:
    """Draws. `total` is bytes; with a total of at most one there is nothing to count."""

    def __init__(self, form: Form = Form.AUTO) -> None:
        draws = form is Form.BAR or (form is Form.AUTO and sys.stderr.isatty())
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr, force_terminal=True if form is Form.BAR else None),
            transient=True,
            disable=not draws,
        )
        self._stage, self._lock = "", threading.Lock()
        self._task = self._progress.add_task("starting", total=None)
        self._timer = threading.Timer(_QUIET_SECONDS, self._progress.start)
        self._timer.daemon = True

    def open(self) -> None:
        """Begin to draw, soon."""
        if not self._progress.disable:
            self._timer.start()

    def close(self) -> None:
        """Stop drawing and leave the line empty; may be called again."""
        self._timer.cancel()
        if self._timer.is_alive() and self._timer is not threading.current_thread():
            self._timer.join()
        self._progress.stop()

    def done(self) -> None:
        """Nothing to add."""

    def update(self, stage: str, done: int, total: int) -> None:
        """Show `stage`, with `done` of `total` bytes."""
        with self._lock:
            known = total if total > 1 else None
            if stage != self._stage:  # a rate is of one stage
                self._stage = stage
                self._progress.remove_task(self._task)
                self._task = self._progress.add_task(stage, total=known)
            self._progress.update(self._task, completed=done, total=known)


class Events:
    """The same as lines of JSON; what each key means is in docs/operations.md."""

    def __init__(self, command: str) -> None:
        self._command, self._lock = command, threading.Lock()
        self._stage, self._kind, self._began, self._said, self._from = "", "", 0.0, 0.0, 0

    def open(self) -> None:
        """The first stage says that it began."""

    def close(self) -> None:
        """Nothing is held."""

    def done(self) -> None:
        """The last event of a command that succeeded."""
        self._write({"stage": "done"})

    def update(self, stage: str, done: int, total: int) -> None:
        """Write an event, unless the last one was only just now."""
        with self._lock:
            now = time.monotonic()
            kind = _NUMBER.sub("", stage)
            if kind == self._kind and total <= 1 and now - self._said < _EVENT_SECONDS:
                return  # the next of a thousand
            if stage != self._stage:
                self._stage, self._kind, self._began, self._said, self._from = stage, kind, now, -_EVENT_SECONDS, done
            if done < total and now - self._said < _EVENT_SECONDS:
                return
            self._said, took = now, now - self._began
            rate = (done - self._from) / took if took > 0.01 and done > self._from else None
            counted = {"done": done, "total": total} if total > 1 else {}
            paced = {"rate": round(rate), "left": round((total - done) / rate, 1)} if rate and counted else {}
            self._write({"stage": stage, **counted, **paced})

    def _write(self, event: dict[str, object]) -> None:
        sys.stderr.write(json.dumps({"event": "progress", "command": self._command, **event}) + "\n")
        sys.stderr.flush()
