"""Publishes what appears in a folder, once it is complete. How a model is published is the caller's.

`DIR/NAME.ext` or the folder `DIR/NAME/` is the model NAME; `DIR/NAME.probe.json` its probe. File system events are
hints only: what counts is that sizes and times stay the same for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from modelsync_protocol import names
from modelsync_protocol.errors import ModelsyncError, UnreachableError, UsageError

RESCAN_SECONDS = 30.0
"""How often the folder is looked at although no event came: network shares have none."""

RETRY_SECONDS = 60.0
_PROBE = ".probe.json"
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_log = logging.getLogger(__name__)

Fingerprint = tuple[tuple[str, int, int, int], ...]
Publish = Callable[[str, Path, Path | None], Awaitable[None]]
"""`publish(name, artifact, probe)`; raises ModelsyncError."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model in the folder, and what its files look like from outside."""

    path: Path
    probe: Path | None
    fingerprint: Fingerprint


async def watch(
    folder: Path,
    publish: Publish,
    complain: Callable[[str], None],
    stop: asyncio.Event,
    *,
    settle_seconds: float = 2.0,
    rescan_seconds: float = RESCAN_SECONDS,
) -> None:
    """Publish each model of `folder` whenever it has changed and then stood still for `settle_seconds`.

    A model that is refused is told once (`complain`) and tried again when its files change; one that could not be
    stored is tried again after a minute. Returns when `stop` is set. UsageError if `folder` is no folder.
    """
    root = folder.resolve()  # a watch through a symbolic link goes silent when the link is swapped
    if not root.is_dir():
        raise UsageError(f"{folder} is not a folder: name the one that models are put into.")
    loop = asyncio.get_running_loop()
    hint = asyncio.Event()
    done: dict[str, Fingerprint] = {}
    seen: dict[str, tuple[Fingerprint, float]] = {}

    def tell() -> None:  # on a thread of watchdog
        loop.call_soon_threadsafe(hint.set)

    with _events(root, tell):
        while not stop.is_set():
            hint.clear()
            waiting = False
            for name, found in sorted((await asyncio.to_thread(scan, root, complain)).items()):
                if found.fingerprint == done.get(name):
                    continue
                waiting = True
                before, since = seen.get(name, ((), 0.0))
                if before != found.fingerprint:
                    seen[name] = (found.fingerprint, loop.time())
                elif loop.time() - since >= settle_seconds:
                    again = await _publish(name, found, publish, complain)
                    if again is None:
                        done[name] = found.fingerprint
                    else:
                        seen[name] = (found.fingerprint, loop.time() + again)
            await wait(hint, stop, settle_seconds / 2 if waiting else rescan_seconds, patient=waiting)


async def _publish(name: str, found: Found, publish: Publish, complain: Callable[[str], None]) -> float | None:
    """Publish; None if that is settled, else seconds until the next attempt."""
    try:
        await publish(name, found.path, found.probe)
    except UnreachableError as error:
        complain(f"{name}: {error}")
        return RETRY_SECONDS
    except ModelsyncError as error:
        complain(f"{name}: {error}")
    return None


async def wait(hint: asyncio.Event, stop: asyncio.Event, seconds: float, *, patient: bool) -> None:
    """Until a hint or `stop`, at most `seconds`; `patient`: hints don't shorten it, since files come in many writes."""
    events = [stop.wait()] if patient else [stop.wait(), hint.wait()]
    tasks = [asyncio.ensure_future(event) for event in events]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def scan(root: Path, complain: Callable[[str], None] = lambda text: None) -> dict[str, Found]:
    """The models of a folder by name. Hidden, unfinished and oddly named entries are passed over."""
    models: dict[str, Found] = {}
    for entry in sorted(root.iterdir()):
        if _passed_over(entry.name):
            continue
        name = entry.name if entry.is_dir() else entry.name.partition(".")[0]
        try:
            names.check_model_name(name)
            if name in models:
                raise UsageError(f"{entry.name} and {models[name].path.name} are the same model {name!r}: remove one.")
        except UsageError as error:
            _log.warning("%s", error)
            continue
        probe = root / f"{name}{_PROBE}"
        files = [entry, *([probe] if probe.exists() else [])]
        with contextlib.suppress(FileNotFoundError):  # it is being replaced: the next look finds it
            print_ = tuple(line for file in files for line in _lines(file))
            models[name] = Found(entry, probe if probe.exists() else None, print_)
    return models


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.endswith((*_UNFINISHED, _PROBE))


def _lines(path: Path) -> Iterator[tuple[str, int, int, int]]:
    status = path.stat()
    yield str(path), status.st_ino, status.st_size, status.st_mtime_ns
    if path.is_dir():
        for here, folders, files in os.walk(path):
            for name in sorted(folders + files):
                status = Path(here, name).lstat()
                yield str(Path(here, name)), status.st_ino, status.st_size, status.st_mtime_ns


class _Handler(FileSystemEventHandler):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write"):  # our own looking
            with contextlib.suppress(RuntimeError):
                self._tell()


@contextmanager
def _events(root: Path, tell: Callable[[], None]) -> Iterator[None]:
    observer = Observer()
    try:
        observer.schedule(_Handler(tell), str(root), recursive=True)
        observer.start()
    except OSError as error:  # no inotify watches left: looking every half a minute still works
        _log.warning("no file system events (%s): changes are found within %.0f s.", error, RESCAN_SECONDS)
        yield
        return
    try:
        yield
    finally:
        observer.stop()
        observer.join(5)
