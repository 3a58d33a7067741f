"""`modelsyncd status --watch`: what `status` says, once a second, for as long as somebody looks."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modelsync_daemon import api
from modelsync_protocol.errors import UnreachableError

_SECONDS = 1.0
_BAR = 20
_HOME, _TO_LINE_END, _TO_PAGE_END = "\x1b[H", "\x1b[K", "\x1b[J"
_HIDE, _SHOW, _ALTERNATE, _BACK = "\x1b[?25l", "\x1b[?25h", "\x1b[?1049h", "\x1b[?1049l"


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The status document for people: a line a model, and one about the daemon."""
    for name, model in document["models"].items():
        wanted = "" if model["desired"] in (None, model["version"]) else f", desired {model['desired']}"
        hold = ", held" if model["hold"] else ""
        error = f": {model['error']['text']}" if model["error"] else ""
        told = f", application {told['result']}" if (told := model.get("consumer")) else ""
        yield f"{name} {model['version'] or '-'} {model['state']} since {model['since']}{wanted}{hold}{told}{error}"
    if "network" in document:
        network = document["network"]
        rule = f"network rule {network['rule']}" if network["rule"] else "no network rule"
        said = f": {network['problem']}" if network.get("problem") else ""
        yield f"{rule} in force on {network['interface'] or 'no interface'}{said}"
    daemon, day = document["daemon"], document["ledger"]["day"]
    running = f"running (pid {daemon['pid']})" if daemon["pid"] else "not running"
    hub = ", connected" if daemon["connected"] else ""
    yield f"modelsyncd {daemon['version']} {running}{hub}; today {day['received'] + day['sent']} bytes."


def watch(data: Path, running: bool, print_line: Callable[[str], None]) -> None:
    """Show it until interrupted: a page that is drawn anew on a terminal, elsewhere the lines that changed."""
    if sys.stdout.isatty():
        _page(data, running)
    else:
        _changes(data, running, print_line)


def _changes(data: Path, running: bool, print_line: Callable[[str], None]) -> None:
    shown: set[str] = set()
    while True:
        now = list(_now(data, running))
        for line in now:
            if line not in shown:
                print_line(line)
        sys.stdout.flush()
        shown = set(now)
        time.sleep(_SECONDS)


def _page(data: Path, running: bool) -> None:
    sys.stdout.write(_ALTERNATE + _HIDE)
    try:
        while True:
            size = shutil.get_terminal_size()
            now = list(_now(data, running))
            more = len(now) - (size.lines - 1)
            if more > 0:
                now = [*now[: size.lines - 2], f"… and {more + 1} more"]
            stamp = time.strftime("%H:%M:%S")
            page = [line[: size.columns] for line in (*now, f"{stamp}, Ctrl-C ends this")]
            sys.stdout.write(_HOME + "".join(f"{line}{_TO_LINE_END}\n" for line in page[:-1]))
            sys.stdout.write(page[-1] + _TO_LINE_END + _TO_PAGE_END)
            sys.stdout.flush()
            time.sleep(_SECONDS)
    finally:
        sys.stdout.write(_SHOW + _BACK)
        sys.stdout.flush()


def _now(data: Path, running: bool) -> Iterator[str]:
    try:
        document = api.status_document(data, running=running)
    except UnreachableError as error:  # a daemon that is just restarted comes back
        if running:
            raise
        yield str(error)
        return
    for (name, model), line in zip(document["models"].items(), lines(document), strict=False):
        yield line
        progress = model["progress"]
        if progress is not None and progress["total"]:
            done = min(progress["done"], progress["total"])
            filled = _BAR * done // progress["total"]
            yield f"  {name} [{'#' * filled}{'.' * (_BAR - filled)}] {done:,} of {progress['total']:,} bytes"
    yield list(lines(document))[-1]
