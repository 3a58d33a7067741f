"""Runs an application's program within a time limit, through the launcher. No shell; nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_daemon.activate.consumer import NotServing
from modelsync_daemon.confinement import inheritance, landlock

_START_SECONDS = 45.0
"""What starting the launcher and ending what it started may take beside the program's own time."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may do. `confined` by Landlock: it reads system folders, its model and `read`, writes `write`, and
    has TCP only with `network`. `required`: rather not run than run without."""

    confined: bool = True
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    network: bool = False
    environment: Mapping[str, str] | None = None
    required: bool = False


async def run(argv: Sequence[str], seconds: float, bounds: Bounds, values: Mapping[str, str]) -> str:
    """What the program wrote last, if it ended with 0; else NotServing with a sentence. Cancelling ends it too.

    Its environment is PATH, LANG, MODELSYNC_… for `values`, and what the settings say.
    """
    if bounds.confined and bounds.required and not landlock.version():
        raise NotServing("require_confinement is set, and this kernel has no Landlock for the application's program.")
    shown = Path(argv[0]).name
    environment = {"PATH": _PATH, "LANG": "C.UTF-8"} | {
        f"MODELSYNC_{key.upper()}": text for key, text in values.items()
    }
    # The model may be linked through the folder above it; what the daemon keeps for itself lies elsewhere.
    own = [str(Path(values[key]).parent) for key in ("path",) if values.get(key)]
    job = {
        "argv": list(argv),
        "environment": environment | dict(bounds.environment or {}),
        "seconds": seconds,
        "confined": bounds.confined,
        "read": [*map(str, bounds.read), *own],
        "write": [*map(str, bounds.write)],
        "network": bounds.network,
    }
    found = await _launch(job, seconds)
    said = f": {' '.join(found['output'].split())[-_SHOWN:]}" if found["output"].strip() else ""
    if found["code"] is None:
        raise NotServing(f"{shown} did not end within {seconds:.3g} s and was killed{said}.")
    if found["code"]:
        how = f"was killed by signal {-found['code']}" if found["code"] < 0 else f"ended with {found['code']}"
        raise NotServing(f"{shown} {how}{said or '.'}")
    if found["left"]:
        raise NotServing(
            f"{shown} ended and left {found['left']} process(es) behind, which were killed: whatever is to stay "
            "has to be started by a service manager."
        )
    return str(found["output"])


async def _launch(job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "modelsync_daemon.consumers.launcher",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=inheritance.harmless(os.environ.items()), start_new_session=True,
    )  # fmt: skip
    assert launcher.stdin is not None and launcher.stdout is not None
    try:
        launcher.stdin.write(json.dumps(job).encode() + b"\n")
        async with asyncio.timeout(seconds + _START_SECONDS):
            line = await launcher.stdout.readline()
        found = json.loads(line)
    except (OSError, ValueError, TimeoutError) as error:
        raise NotServing("the process that starts the application's program died or hangs; look at the log.") from error
    finally:
        launcher.stdin.close()  # it ends what it started, if there is something still
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.shield(launcher.wait())
    return dict(found)
