"""What ONNX Runtime needs of the system around it, and what it prints at its start. It is not imported here."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from modelsync_protocol.errors import LocalError

PROCESSORS = "devices/system/cpu/possible"
_NOISE = re.compile(rb"Schema error: .* but it is already registered from .*")


def check(sys_folder: Path = Path("/sys")) -> None:
    """LocalError where ONNX Runtime would abort the process while it is imported: it asks /sys about processors."""
    if not (sys_folder / PROCESSORS).exists():
        raise LocalError(
            f"{sys_folder / PROCESSORS} is missing, and ONNX Runtime can't start without it: mount /sys "
            "(mount -t sysfs sysfs /sys; containers of Docker and podman have it unless it is masked)."
        )


@contextlib.contextmanager
def without_schema_noise() -> Iterator[None]:
    """Leave out of stderr what Debian's ONNX Runtime says at its first session: hundreds of harmless lines.

    It shares ONNX's library with others, and every operator is registered by both. All other lines pass, also those
    of a process that aborts meanwhile. For a process with one thread, since it forks.
    """
    sys.stderr.flush()
    reader, writer = os.pipe()
    real = os.dup(2)
    child = os.fork()
    if child == 0:
        os.close(writer)
        with contextlib.suppress(BaseException), os.fdopen(reader, "rb") as lines:
            _pass_on(lines, real)
        os._exit(0)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        os.waitpid(child, 0)


def _pass_on(lines: Iterator[bytes], real: int) -> None:
    left_out, after_noise = 0, False
    for line in lines:
        if _NOISE.match(line) or (after_noise and not line.strip()):
            after_noise = True
            left_out += bool(line.strip())
            continue
        after_noise = False
        os.write(real, line)
    if left_out:
        text = f"INFO modelsync_inference: left out {left_out} lines of ONNX Runtime on operators registered twice.\n"
        os.write(real, text.encode())
