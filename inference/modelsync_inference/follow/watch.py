"""A hint when a pointer file is replaced, from the file system. Only a hint: the owner polls as well."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from modelsync_inference.model.pointer import CANDIDATE, CURRENT

_LOG = logging.getLogger(__name__)
_NAMES = {f"{CURRENT}.json", f"{CANDIDATE}.json"}


class FolderWatch(FileSystemEventHandler):
    """Calls `hint` when a pointer in `folder` changes. `renew` again and again: the folder may come later or anew."""

    def __init__(self, folder: Path, hint: Callable[[], None]) -> None:
        self._folder, self._hint = folder, hint
        self._observer: BaseObserver | None = None
        self._watch: ObservedWatch | None = None
        self._inode: int | None = None
        self._usable = True

    def renew(self) -> None:
        """Watch the folder if it is there and isn't watched yet; a system that can't watch is logged once."""
        if not self._usable:
            return
        try:
            inode = self._folder.stat().st_ino
        except OSError:
            return
        if inode == self._inode:
            return
        try:
            self._attach()
        except OSError as error:  # out of inotify watches, for example; polling goes on
            _LOG.warning("%s can't be watched (%s); it is looked at every few seconds.", self._folder, error.strerror)
            self._usable = False
            self.close()
            return
        self._inode = inode

    def close(self) -> None:
        """Stop watching; may be repeated."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(timeout=5)
        self._observer = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """A replaced file shows as moved or created, a removed one as deleted; reading it must not count."""
        if event.event_type not in ("moved", "created", "deleted", "modified"):
            return
        paths = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        if any(os.path.basename(path) in _NAMES for path in paths):  # noqa: PTH119
            self._hint()

    def _attach(self) -> None:
        if self._observer is None:
            self._observer = Observer()
            self._observer.daemon = True
            self._observer.start()
        if self._watch is not None:
            with contextlib.suppress(KeyError):  # it ended by itself with the old folder
                self._observer.unschedule(self._watch)
            self._watch = None
        # The folder, never the file or a link to it: a watch on those goes silent once they are replaced.
        self._watch = self._observer.schedule(self, str(self._folder), recursive=False)
