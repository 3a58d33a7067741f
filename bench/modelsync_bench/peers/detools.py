"""detools: a patch from the exact old file, as made for microcontrollers."""

from __future__ import annotations

import sys
from pathlib import Path

from modelsync_bench.peers.downloads import Download, check, distribution, tool


class Detools(Download):
    """Its sequential patches with LZMA, the smallest that it makes."""

    name = "detools"
    method = "detools create_patch -c lzma from the exact old file, by HTTPS GET; memory includes a Python interpreter"
    install = "pip install detools; apt install curl nginx-light"
    suffix = ".detools"
    largest: int | None = 8 * 1024 * 1024
    installs = False

    def version(self) -> str | None:
        return distribution("detools") if tool("curl", "--version") else None

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        served.unlink(missing_ok=True)
        check(
            [
                sys.executable,
                "-m",
                "detools",
                "create_patch",
                "-c",
                "lzma",
                str(old),
                str(new),
                str(served),
            ]
        )

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return [sys.executable, "-I", "-m", "detools", "apply_patch", str(old), str(fetched), str(new)]
