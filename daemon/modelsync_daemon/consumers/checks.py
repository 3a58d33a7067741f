"""Ways to see that an application loaded a version, or would: one look each, which raises NotServing with a sentence.

A look may return a mark of who answered, such as a process: when it changes, the application ended and came back.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelsync_daemon.activate.consumer import NotServing
from modelsync_daemon.consumers import processes, programs, tools
from modelsync_daemon.consumers.http_request import HttpRequest
from modelsync_daemon.consumers.programs import Bounds
from modelsync_daemon.consumers.templates import Values, filled


class Check(Protocol):
    """One way to look."""

    async def look(self, values: Values, seconds: float) -> str:
        """Look once, for at most `seconds`; a mark of who answered, or nothing. Raises NotServing."""
        ...


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """A program that ends with 0."""

    argv: tuple[str, ...]
    bounds: Bounds

    async def look(self, values: Values, seconds: float) -> str:
        """As of Check."""
        await programs.run(filled(self.argv, values), seconds, self.bounds, values)
        return ""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A request that is answered as expected."""

    request: HttpRequest

    async def look(self, values: Values, seconds: float) -> str:
        """As of Check."""
        await self.request.send(values, seconds)
        return ""


@dataclass(frozen=True, slots=True)
class SocketCheck:
    """Somebody accepts connections at `host:port` or at a Unix socket's path."""

    address: str

    async def look(self, values: Values, seconds: float) -> str:
        """As of Check."""
        try:
            async with asyncio.timeout(seconds):
                if self.address.startswith("/"):
                    _, writer = await asyncio.open_unix_connection(self.address)
                else:
                    host, _, port = self.address.rpartition(":")
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except TimeoutError:
            raise NotServing(f"{self.address} took no connection within {seconds:.3g} s.") from None
        except OSError as error:
            raise NotServing(f"{self.address} takes no connection: {error.strerror or error}.") from error
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ""


@dataclass(frozen=True, slots=True)
class UnitCheck:
    """A systemd unit is active; its mark is the run that it is in."""

    unit: str

    async def look(self, values: Values, seconds: float) -> str:
        """As of Check."""
        found = await tools.show(self.unit, ("ActiveState", "SubState", "InvocationID"), seconds)
        if found.get("ActiveState") not in tools.RUNNING:
            raise NotServing(f"{self.unit} is {found.get('ActiveState')} ({found.get('SubState')}).")
        return found.get("InvocationID", "")


@dataclass(frozen=True, slots=True)
class ProcessCheck:
    """The process that a file names lives; its mark is the process."""

    pidfile: Path
    program: str | None = None

    async def look(self, values: Values, seconds: float) -> str:
        """As of Check."""
        found = processes.of(self.pidfile, self.program)
        return f"{found.pid}:{found.started}"
