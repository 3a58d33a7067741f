"""xdelta3 (VCDIFF): a patch from the exact old file."""

from __future__ import annotations

from pathlib import Path

from modelsync_bench.peers.downloads import Download, check, tool

_WINDOW = str(512 * 1024 * 1024)


class Xdelta3(Download):
    """At its highest level, with LZMA, and a window as large as the file."""

    name = "xdelta3"
    method = "xdelta3 -9 -S lzma from the exact old file, by HTTPS GET"
    install = "apt install xdelta3 curl nginx-light"
    suffix = ".vcdiff"

    def version(self) -> str | None:
        return tool("xdelta3", "-V")

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        source = ["-s", str(old)] if old else []
        check(["xdelta3", "-q", "-f", "-e", "-9", "-S", "lzma", "-B", _WINDOW, *source, str(new), str(served)])

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        source = ["-s", str(old)] if old else []
        return ["xdelta3", "-q", "-f", "-d", "-B", _WINDOW, *source, str(fetched), str(new)]
