"""Waiting for something to become true in another task, thread or process. No stopwatch assertions.

One patience for the whole suite: what should come usually comes within milliseconds, and a machine that others load is
no fault. A limit of a test's own is for what must *not* take longer.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")

PATIENCE_SECONDS = 60.0
"""A fifth of what pytest gives a test, so that who waits in vain says for what."""


def wait_until(condition: Callable[[], object], what: str, timeout: float = PATIENCE_SECONDS) -> None:
    """Return once `condition()` holds; AssertionError names `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        time.sleep(0.005)


async def until(condition: Callable[[], Any], what: str = "it", timeout: float = PATIENCE_SECONDS) -> None:
    """The same, and the event loop goes on (by its clock, which may be virtual); `condition` may be a coroutine."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert clock() < deadline, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(0.01)


def listens(port: int, process: subprocess.Popen[Any], log: Callable[[], str] = str) -> None:
    """Wait until `process` takes connections on `port` of 127.0.0.1; AssertionError with what `log` reads."""

    def taken() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}: {log()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(taken, f"a listener on port {port}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {log()}") from None


def end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM, and SIGKILL if that is not enough: for servers of others, whose end is not what is tested."""
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def within(awaitable: Awaitable[_Result], timeout: float = PATIENCE_SECONDS) -> _Result:
    """Await with a limit, so that what hangs fails the test instead of holding it up."""
    async with asyncio.timeout(timeout):
        return await awaitable
