"""Fuzzes one target in this process with libFuzzer, guided by the coverage of our packages: `child NAME SELF …`.

SELF is the program that libFuzzer starts again when it merges; the rest is libFuzzer's. Started by `run`; needs
atheris. Memory is bounded by the operating system, time per input by libFuzzer's -timeout.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

PACKAGES = ["modelsync_protocol", "modelsync_daemon", "modelsync_inference", "modelsync_server"]

ROOM_BYTES = 512 * 1024 * 1024
"""Address space that one input may take beyond what the process has at its start."""


def main() -> None:
    """Never returns: libFuzzer ends the process, with 0 only if nothing was found."""
    name = sys.argv[1]
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=PACKAGES):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    atheris.Setup(sys.argv[2:], target, internal_libfuzzer=True)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
