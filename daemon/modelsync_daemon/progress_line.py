"""How far a command is, on stderr: a line written anew on a terminal, JSON objects a line if asked for, else nothing.

For `modelsyncd pull` and `import`; the resident daemon shows nothing and never imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator

from modelsync_protocol.errors import UsageError

VARIABLE = "MODELSYNC_PROGRESS"
"""As of `modelsync`: what `--progress` is where it is not given."""

FORMS = ("auto", "bar", "json", "none")
_EVENT_SECONDS = 0.5
"""Events of one stage are at least so far apart; its first and its last are always told."""

_LINE_SECONDS = 0.1
_SURE_SECONDS = 0.5
"""Before, a rate says little."""


@contextlib.contextmanager
def shown(command: str, title: str, form: str | None) -> Iterator[Progress]:
    """Tell how far `command` is; `title` begins the line. UsageError for a form that there is not."""
    form = form or os.environ.get(VARIABLE) or "auto"
    if form not in FORMS:
        raise UsageError(f"--progress (or {VARIABLE}) is one of {', '.join(FORMS)}, not {form!r:.40}.")
    draws = form == "bar" or (form == "auto" and sys.stderr.isatty())
    progress = Progress(command, title, draws=draws, events=form == "json")
    try:
        yield progress
    except BaseException:
        progress.close()
        raise
    progress.close()
    progress.done()


class Progress:
    """What a command tells: its stage, and bytes done and in total of what it fetches."""

    def __init__(self, command: str, title: str, *, draws: bool, events: bool) -> None:
        self._command, self._title, self._draws, self._events = command, title, draws, events
        self._stage, self._began, self._said, self._from = "starting", time.monotonic(), -1.0, 0

    def stage(self, name: str) -> None:
        """Another stage begins, of unknown length."""
        if name == self._stage:
            return
        self._stage, self._began, self._said, self._from = name, time.monotonic(), -1.0, -1
        if self._events:
            self._write({"stage": name})
        elif self._draws:
            self._draw(f"{name} …")

    def bytes(self, done: int, total: int) -> None:
        """So many of this stage's bytes are done."""
        now = time.monotonic()
        if self._from < 0:  # what an interrupted call left is no speed of ours
            self._began, self._from = now, done
        if done < total and now - self._said < (_EVENT_SECONDS if self._events else _LINE_SECONDS):
            return
        self._said, took = now, now - self._began
        rate = (done - self._from) / took if took > _SURE_SECONDS and done > self._from else None
        left = None if rate is None else (total - done) / rate
        if self._events:
            paced = {} if rate is None or left is None else {"rate": round(rate), "left": round(left, 1)}
            self._write({"stage": self._stage, "done": done, "total": total, **paced})
        elif self._draws:
            share = 100 * done // total if total else 100
            pace = "" if rate is None or left is None else f", {rate / 1e6:,.2f} MB/s, {left:,.0f} s left"
            self._draw(f"{self._stage} {done:,} of {total:,} bytes ({share} %){pace}")

    def done(self) -> None:
        """The last event of a command that succeeded."""
        if self._events:
            self._write({"stage": "done"})

    def close(self) -> None:
        """Leave the line empty."""
        if self._draws:
            self._put("\r\x1b[K")

    def _draw(self, text: str) -> None:
        self._put(f"\r\x1b[K{self._title}: {text}")

    def _write(self, event: dict[str, object]) -> None:
        self._put(json.dumps({"event": "progress", "command": self._command, **event}) + "\n")

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody looks any more: the work goes on
            sys.stderr.write(text)
            sys.stderr.flush()
