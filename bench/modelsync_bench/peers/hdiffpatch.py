"""HDiffPatch with zstd: a patch from the exact old file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from modelsync_bench.peers.downloads import Download, distribution, tool

_APPLY = """
import hdiffpatch, sys
old, patch, new = sys.argv[1:]
data = open(old, "rb").read() if old else b""
open(new, "wb").write(hdiffpatch.apply(data, open(patch, "rb").read()))
"""


class Hdiffpatch(Download):
    """The Python package; patching runs in a process of its own, the interpreter included."""

    name = "hdiffpatch"
    method = "hdiffpatch with zstd 22 from the exact old file, by HTTPS GET; memory includes a Python interpreter"
    install = "pip install hdiffpatch; apt install curl nginx-light"
    suffix = ".hdiff"
    largest: int | None = 512 * 1024 * 1024

    def version(self) -> str | None:
        return distribution("hdiffpatch") if tool("curl", "--version") else None

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        module = importlib.import_module("hdiffpatch")
        before = old.read_bytes() if old else b""
        served.write_bytes(
            module.diff(before, new.read_bytes(), compression=module.ZStdConfig(level=22), validate=False)
        )

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return [sys.executable, "-I", "-c", _APPLY, str(old or ""), str(fetched), str(new)]
