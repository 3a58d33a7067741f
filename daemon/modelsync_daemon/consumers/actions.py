"""Ways to have an application load a version. Each takes as long as it may, and raises NotServing with a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.consumers import processes, programs, tools
from modelsync_daemon.consumers.checks import SocketCheck
from modelsync_daemon.consumers.http_request import HttpRequest
from modelsync_daemon.consumers.programs import Bounds
from modelsync_daemon.consumers.templates import Values, filled


class Action(Protocol):
    """One way."""

    async def reach(self, seconds: float) -> None:
        """Look whether there is anybody to tell, without telling; raises NotThere."""

    async def perform(self, values: Values, seconds: float) -> None:
        """Do it, within `seconds`. May be repeated: `values` has the generation. Raises NotServing."""


@dataclass(frozen=True, slots=True)
class UnitAction:
    """`systemctl reload UNIT`, or another verb; waits until systemd's job is done."""

    verb: str
    unit: str

    async def reach(self, seconds: float) -> None:
        """As of Action."""
        await _unit_is_there(self.unit, seconds, running=self.verb in ("reload", "try-restart"))

    async def perform(self, values: Values, seconds: float) -> None:
        """As of Action."""
        if self.verb != "reload":
            with contextlib.suppress(NotServing):  # one that failed too often would not be started again
                await tools.systemctl(["reset-failed", "--", self.unit], seconds)
        await tools.systemctl([self.verb, "--", self.unit], seconds)


@dataclass(frozen=True, slots=True)
class CommandAction:
    """A program, with its arguments; no shell."""

    argv: tuple[str, ...]
    bounds: Bounds

    async def reach(self, seconds: float) -> None:
        """As of Action."""
        program = Path(self.argv[0])
        if not program.is_file() or not os.access(program, os.X_OK):
            raise NotThere(f"{program} is not there, or is no program that may be run.", passing=False)

    async def perform(self, values: Values, seconds: float) -> None:
        """As of Action."""
        await programs.run(filled(self.argv, values), seconds, self.bounds, values)


@dataclass(frozen=True, slots=True)
class HttpAction:
    """HTTP requests, one after the other."""

    requests: tuple[HttpRequest, ...]

    async def reach(self, seconds: float) -> None:
        """As of Action."""
        for request in self.requests:
            try:
                await SocketCheck(request.address).look({}, seconds)
            except NotServing as error:
                raise NotThere(f"{request.shown}: {error}") from error

    async def perform(self, values: Values, seconds: float) -> None:
        """As of Action."""
        deadline = time.monotonic() + seconds
        for request in self.requests:
            await request.send(values, max(0.001, deadline - time.monotonic()))


@dataclass(frozen=True, slots=True)
class SignalAction:
    """A signal to the main process of a unit, or to the process that a file names."""

    number: signal.Signals
    unit: str | None = None
    pidfile: Path | None = None
    program: str | None = None

    async def reach(self, seconds: float) -> None:
        """As of Action."""
        if self.unit is not None:
            await _unit_is_there(self.unit, seconds, running=True)
        elif self.pidfile is not None:
            processes.of(self.pidfile, self.program)

    async def perform(self, values: Values, seconds: float) -> None:
        """As of Action."""
        if self.unit is not None:
            # The older word, which systemd takes to this day.
            await tools.systemctl(["kill", "--kill-who=main", f"--signal={self.number.name}", "--", self.unit], seconds)
        elif self.pidfile is not None:
            await asyncio.to_thread(processes.send, self.pidfile, self.number, self.program)


@dataclass(frozen=True, slots=True)
class DbusAction:
    """A method call on the system bus, in busctl's words: signature and arguments (busctl(1))."""

    destination: str
    path: str
    interface: str
    member: str
    signature: str = ""
    arguments: tuple[str, ...] = ()

    async def reach(self, seconds: float) -> None:
        """Nobody knows before: the bus may start it."""

    async def perform(self, values: Values, seconds: float) -> None:
        """As of Action."""
        more = [self.signature, *filled(self.arguments, values)] if self.signature else []
        await tools.busctl([self.destination, self.path, self.interface, self.member, *more], seconds)


async def _unit_is_there(unit: str, seconds: float, running: bool) -> None:
    try:
        found = await tools.show(unit, ("LoadState", "ActiveState"), seconds)
    except NotServing as error:
        raise NotThere(f"systemd can't be asked about {unit}: {error}", passing=False) from error
    if found.get("LoadState") != "loaded":
        raise NotThere(f"there is no unit {unit}.", passing=False)
    if running and found.get("ActiveState") not in tools.RUNNING:
        raise NotThere(f"{unit} is {found.get('ActiveState')}.")
