"""The port to an application that is told of a new version, and does not follow the pointers itself. No I/O here."""

from __future__ import annotations

from typing import Protocol

from modelsync_daemon.disk.pointer import Pointer
from modelsync_protocol.errors import ModelsyncError


class NotServing(ModelsyncError):
    """Whoever was to serve the version refused or broke it; the sentence says why."""

    exit_code = 3


class NotThere(NotServing):
    """The application can't be told at all now, whatever the version: it does not run, or this machine lacks it.

    `passing`: it only does not run, as one that has no model yet may not.
    """

    exit_code = 4

    def __init__(self, text: str, passing: bool = True) -> None:
        super().__init__(text)
        self.passing = passing


class Consumer(Protocol):
    """What an application is asked for. Each call ends within a time of its own, and nothing of it runs on afterwards,
    also when it is cancelled."""

    async def examine(self, pointer: Pointer) -> None:
        """Ask whether the candidate would do, while the old one serves. NotServing; NotThere if it can't be asked."""

    async def load(self, pointer: Pointer) -> None:
        """Tell it to load what `pointer` names, and wait until it is ready; raises NotServing. May be repeated."""

    async def watch(self, pointer: Pointer) -> str:
        """Look at it again and again; returns why it is not ready any more, and not before."""
        ...
