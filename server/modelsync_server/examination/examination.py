"""The parent: has a stream of bytes read by a confined child, and takes its word for nothing but "it can be read"."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_protocol.caps import MIB
from modelsync_protocol.errors import LocalError, UsageError

COMMAND = [sys.executable, "-P", "-m", "modelsync_server.examination.examiner"]
_MEMORY = 512 * MIB
_SECONDS = 60
_BYTES_A_SECOND = 1 * MIB
"""So slow a reader may be; beyond `_SECONDS`, for large uploads."""

_MAX_ANSWER = 4 * MIB


@dataclass(frozen=True, slots=True)
class Examined:
    """What the child found: why the artifact is not closed, what it would execute, and what it was confined by."""

    refusal: str | None
    code: tuple[str, ...]
    layers: tuple[str, ...]


def examine(
    stream: Path, files: Sequence[tuple[str, int, int]], links: Mapping[str, str], model: str | None = None
) -> Examined:
    """Read `stream`, in which `files` lie as (path, begin, end), in a child. Blocks.

    UsageError if the child is killed, runs out of memory or time, or says nonsense: whatever the upload is, it is not
    one that can be published. LocalError if no child can be started.
    """
    size = stream.stat().st_size
    seconds = _SECONDS + size // _BYTES_A_SECOND
    if size == 0:
        return Examined(None, (), ())
    with stream.open("rb") as file:
        order = {
            "descriptor": file.fileno(), "files": list(files), "links": dict(links), "model": model,
            "memory": _MEMORY, "seconds": seconds,
        }  # fmt: skip
        try:
            child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(file.fileno(),),
                env=_environment(),
            )
        except OSError as error:
            raise LocalError(f"the upload can't be examined ({error.strerror}); free some memory.") from error
    return _answer(child, json.dumps(order).encode(), seconds)


def _answer(child: subprocess.Popen[bytes], order: bytes, seconds: float) -> Examined:
    try:
        said, _ = child.communicate(order, timeout=2 * seconds)
    except subprocess.TimeoutExpired:
        raise UsageError(f"the upload is refused: reading it takes more than {2 * seconds:g} s.") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise UsageError(
            f"the upload is refused: reading it takes more than {seconds:g} s of processor time or is killed."
        )
    try:
        if child.returncode or len(said) > _MAX_ANSWER:
            raise ValueError
        found = json.loads(said)
        refusal, code, layers = found["refusal"], tuple(map(str, found["code"])), tuple(map(str, found["layers"]))
    except (ValueError, KeyError, TypeError):
        raise UsageError("the upload is refused: a reader fails on it, or needs too much memory.") from None
    return Examined(None if refusal is None else str(refusal), code, layers)


def _environment() -> dict[str, str]:
    """No credentials of ours: the child finds its modules, and nothing else."""
    kept = ("LANG", "LC_ALL", "PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
    return {name: value for name, value in os.environ.items() if name in kept}
