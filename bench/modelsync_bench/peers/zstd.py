"""zstd: the whole file at level 19, and a patch from the old file (`--patch-from`)."""

from __future__ import annotations

from pathlib import Path

from modelsync_bench.peers.downloads import Download, check, tool


class Zstd(Download):
    """The whole file."""

    name = "zstd"
    method = "the whole file in zstd -19 --long=27, by HTTPS GET"
    install = "apt install zstd curl nginx-light"
    suffix = ".zst"

    def version(self) -> str | None:
        return tool("zstd", "--version")

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        check(["zstd", "-q", "-f", "-19", "--long=27", str(new), "-o", str(served)])

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return ["zstd", "-q", "-d", "-f", "--long=27", str(fetched), "-o", str(new)]


class ZstdPatch(Zstd):
    """A patch."""

    name = "zstd-patch"
    method = (
        "zstd -19 --long=31 --patch-from of the exact old file, by HTTPS GET; the whole file if there is no old one"
    )

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        patch = [f"--patch-from={old}"] if old else []
        check(["zstd", "-q", "-f", "-19", "--long=31", *patch, str(new), "-o", str(served)])

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        patch = [f"--patch-from={old}"] if old else []
        return ["zstd", "-q", "-d", "-f", "--long=31", *patch, str(fetched), "-o", str(new)]
