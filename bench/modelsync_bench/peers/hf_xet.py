"""hf-xet (Hugging Face's Xet): its chunks against a local store, since the service itself is not to be had.

Nothing goes over a line. What is reported is what the new version added to a store that had the old one: the chunks and
the index that a device with a perfect cache of the old version would have to fetch. Every request, header and
handshake of the real service is left out, in its favour.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.peers.downloads import check, distribution
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog

_UPLOAD = """
import hf_xet, json, sys
store, report, path = sys.argv[1:]
info, = hf_xet.upload_files([path], "local://" + store, None, None, None, "model")
json.dump([info.hash, info.file_size], open(report, "w"))
"""
_DOWNLOAD = """
import hf_xet, json, sys
store, report, target = sys.argv[1:]
name, size = json.load(open(report))
hf_xet.download_files([hf_xet.PyXetDownloadInfo(target, name, size)], "local://" + store, None, None, None)
"""


class HfXet:
    """The deprecated local endpoint of the Python package."""

    name = "hf-xet"
    method = (
        "what the new version adds to a local Xet store that has the old one (deprecated local:// endpoint); "
        "payload only: nothing goes over a line"
    )
    install = "pip install hf-xet"
    trees = False
    deterministic = True
    signed = False
    encrypted = False
    installs = True
    on_line = False
    largest: int | None = None

    def version(self) -> str | None:
        return distribution("hf-xet")

    def publish(self, job: Job, site: Site) -> None:
        folder = site.folder(self.name, job)
        store = folder / "store"
        if job.old is not None:
            self._upload(store, folder / "old.json", job.old, folder)
        before = _content(store)
        self._upload(store, folder / "new.json", job.new, folder)
        (folder / "added").write_text(str(_content(store) - before))

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        self._added = int((site.folder(self.name, job) / "added").read_text())
        yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        folder = site.folder(self.name, job)
        arguments = [str(folder / "store"), str(folder / "new.json"), str(device / "new")]
        return [[sys.executable, "-I", "-c", _DOWNLOAD, *arguments]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return Account(self._added, None)

    @staticmethod
    def _upload(store: Path, report: Path, version: Path, home: Path) -> None:
        cache = ["env", f"HF_HOME={home}", f"HOME={home}"]
        check([*cache, sys.executable, "-I", "-c", _UPLOAD, str(store), str(report), str(version)])
        json.loads(report.read_text())


def _content(store: Path) -> int:
    """Bytes of chunks (xorbs) and of their indexes (shards) in a store; its own database is no content."""
    kinds = ("xet/xorbs/xorbs/*", "xet/xorbs/shards/*.mdb")
    return sum(path.stat().st_size for kind in kinds for path in store.glob(kind) if path.suffix != ".tagset")
