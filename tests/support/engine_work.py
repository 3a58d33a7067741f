"""What tests give to workers of an engine: work that answers, fails, and kills its own process."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from modelsync_protocol.errors import RefusedError, UnreachableError


def add(first: int, second: int) -> int:
    """Say something where answers go, too."""
    os.write(1, b"noise on standard output\n")
    return first + second


async def later(value: str) -> str:
    return value


def process() -> int:
    return os.getpid()


def keys() -> str | None:
    return os.environ.get("MODELSYNC_KEYS")


def temporary() -> str:
    """Where this process's temporary files go."""
    return tempfile.gettempdir()


def die(marks: str, times: int) -> int:
    """Kill this process as an out-of-memory killer does, the first `times` times; then how often it was begun."""
    begun = _mark(marks)
    if begun <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun


def cut_off(marks: str, times: int) -> int:
    """Reach nobody, the first `times` times."""
    begun = _mark(marks)
    if begun <= times:
        raise UnreachableError("the store is away.")
    return begun


def refuse() -> None:
    raise RefusedError("this is refused.")


def fail() -> None:
    raise KeyError("a bug")


def _mark(folder: str) -> int:
    begun = len([*Path(folder).iterdir()]) + 1
    (Path(folder) / str(begun)).touch()
    return begun
