"""The demo's stage: real processes (hub, origin, daemon, inference servers) started, watched and stopped. No story."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class StageError(Exception):
    """A process did not do what the demo needs; the message names its log."""


class Process:
    """One command of ours as a process of its own; its stderr goes to a log file."""

    def __init__(
        self, name: str, logs: Path, environment: dict[str, str], *, ready_seconds: float = READY_SECONDS
    ) -> None:
        self.name = name
        self._ready_seconds = ready_seconds
        self.log = logs / f"{name}.log"
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, command: str, *arguments: str, ready: bool = True) -> dict[str, Any]:
        """Start `command` of this environment, or the program at a whole path.

        With `ready` return the JSON line that it prints when ready.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                Path(sys.executable).parent / command,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if ready else log,
                stderr=log,
                env={**os.environ, **self._environment},
            )
        if not ready:
            return {}
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), self._ready_seconds)
            document = json.loads(line)
        except TimeoutError as error:
            raise StageError(f"{self.name} did not start within {self._ready_seconds:.0f} s; see {self.log}") from error
        except ValueError as error:
            raise StageError(f"{self.name} did not start; see {self.log}") from error
        assert isinstance(document, dict)
        return document

    async def kill(self) -> None:
        """Kill -9, as a power cut or the out-of-memory killer would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        self._process = None

    def signal_kill(self) -> None:
        """Kill -9 without waiting for the end; nothing if there is nothing to kill."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for the process to end by itself; its exit code, negative by a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            await self.kill()


async def run(command: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run one of our commands to its end and return the JSON it prints; StageError with its own words if it fails."""
    return json.loads(await said(command, *arguments, environment=environment))


async def said(command: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run one of our commands to its end and return what it prints; StageError with its own words if it fails."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / command,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    out, err = await process.communicate()
    if process.returncode:
        raise StageError(
            f"`{command} {' '.join(arguments)}` failed: {(err.strip() or out).decode(errors='replace').strip()}"
        )
    return out.decode(errors="replace")


def free_address(port: int) -> str:
    """A loopback address on which `port` is free; the SDK knows no other port than 8883."""
    for last in range(5, 250):
        with socket.socket() as probe:
            try:
                probe.bind((f"127.0.0.{last}", port))
            except OSError:
                continue
            return f"127.0.0.{last}"
    raise StageError(f"port {port} is taken on 127.0.0.5 to 127.0.0.249; stop what uses it.")
