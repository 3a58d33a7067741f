"""bsdiff 4: a patch from the exact old file."""

from __future__ import annotations

from pathlib import Path

from modelsync_bench.peers.downloads import Download, check, debian, tool

_MIB = 1024 * 1024


class Bsdiff(Download):
    """The reference implementation."""

    name = "bsdiff"
    method = "bsdiff from the exact old file, by HTTPS GET"
    install = "apt install bsdiff curl nginx-light"
    suffix = ".bsdiff"
    largest: int | None = 96 * _MIB
    installs = False

    def version(self) -> str | None:
        return debian("bsdiff", "bsdiff") if tool("bsdiff") else None

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        check(["bsdiff", str(old), str(new), str(served)])

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return ["bspatch", str(old), str(new), str(fetched)]
