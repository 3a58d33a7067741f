"""The whole file by HTTPS GET, as Microsoft's sample does it (architecture-center, ML inference on IoT Edge)."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelsync_bench.peers.downloads import Download, tool


class HttpsGet(Download):
    """`requests.get(url)` in the sample; curl here."""

    name = "https-get"
    method = "plain HTTPS GET of the whole file, uncompressed, as Microsoft's sample module does; starts anew when cut"
    install = "apt install curl nginx-light"

    def version(self) -> str | None:
        return tool("curl", "--version")

    def make(self, old: Path | None, new: Path, served: Path) -> None:
        shutil.copyfile(new, served)

    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        return None


class HttpsGetResumed(HttpsGet):
    """The same with `curl -C -`: the fair variant where downloads are cut."""

    name = "https-get-resumed"
    method = "as https-get, but what is there already is kept when the download is cut (curl -C -)"
    resumes = True
