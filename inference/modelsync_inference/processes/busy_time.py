"""How long a worker process has been asked for something: for so long it may use the processor."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class BusyMeter:
    """Adds up the seconds inside `asked` and until `settled`, of several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._since = {object(): time.monotonic()}  # it is being loaded

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """The worker has something to do while this lasts."""
        key, started = object(), time.monotonic()
        with self._lock:
            self._since[key] = started
        try:
            yield
        finally:
            with self._lock:
                if self._since.pop(key, None) is not None:
                    self._seconds += time.monotonic() - started

    def settled(self) -> None:
        """It is loaded."""
        with self._lock:
            now = time.monotonic()
            self._seconds += sum(now - started for started in self._since.values())
            self._since.clear()

    def seconds(self) -> float:
        """The sum up to now."""
        with self._lock:
            now = time.monotonic()
            return self._seconds + sum(now - started for started in self._since.values())
