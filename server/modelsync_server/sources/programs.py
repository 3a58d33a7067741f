"""Runs git, git-lfs and dvc for a source: without a terminal to ask on, within time and the scratch's bounds."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

from modelsync_protocol.caps import MIB
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.sources.port import MAX_BYTES

_SECONDS = 3600.0
_LOOK_SECONDS = 0.5
_MOST_OUTPUT = 64 * MIB
_LINE = re.compile(
    rb"resolve host|connection (refused|reset|timed out)|timed out|early eof|the requested url[^\n]* (5\d\d|429)\b",
    re.I,
)
"""Complaints after which trying again may help."""

GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "core.fsmonitor=false")
"""Whatever is fetched, git must not run it."""


async def run(
    *command: str,
    install: str,
    folder: Path | None = None,
    below: Path | None = None,
    environment: Mapping[str, str] | None = None,
    give: bytes | None = None,
    into: Path | None = None,
    most_bytes: int = MAX_BYTES,
) -> bytes:
    """What the command writes to standard output, or nothing if that goes to the file `into`.

    `folder`: where it runs. `below`: where it writes; more than `most_bytes` there end it. UsageError with the last
    line that it complained with, or with `install` if there is no such program; RefusedError, UnreachableError.
    """
    asked = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(environment or {})}
    asked.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
    out = into.open("xb") if into is not None else asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=asked,
            stdin=asyncio.subprocess.PIPE if give is not None else asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise UsageError(f"{command[0]} is not installed: {install}.") from None
    finally:
        if not isinstance(out, int):
            out.close()
    work = asyncio.ensure_future(process.communicate(give))
    try:
        async with asyncio.timeout(_SECONDS):
            while not (await asyncio.wait([work], timeout=_LOOK_SECONDS))[0]:
                place = into or below
                if place is not None and await asyncio.to_thread(_size, place) > most_bytes:
                    raise UsageError(f"the source has more than {most_bytes:,} bytes, which a model may not.")
        said, complained = work.result()
    except TimeoutError:
        raise UnreachableError(f"{command[0]} takes more than {_SECONDS:.0f} s; try again.") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        work.cancel()
    if process.returncode:
        kind = UnreachableError if _LINE.search(complained) else UsageError
        raise kind(f"{command[0]} refuses: {_last_line(complained)}")
    if said and len(said) > _MOST_OUTPUT:
        raise RefusedError(f"{command[0]} says more than {_MOST_OUTPUT:,} bytes.")
    return said or b""


def _last_line(complained: bytes) -> str:
    """The line that says most, without addresses' users and without what could steer a terminal."""
    lines = [line.strip() for line in complained.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "error:", "batch response:"))] or lines[-1:]
    text = telling[0] if telling else "it does not say why"
    words = (word if "@" not in word or "://" not in word else "(its address)" for word in text.split())
    return "".join(char if char.isprintable() else "?" for char in " ".join(words))[:240].rstrip(".") + "."


def _size(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    total = 0
    for here, _, files in os.walk(place):
        for file in files:
            try:
                total += Path(here, file).lstat().st_size
            except FileNotFoundError:
                continue
    return total
