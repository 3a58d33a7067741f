"""zsync: a block list by GET, then the blocks that the old file lacks by Range. It speaks plain HTTP only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.peers.downloads import check, debian, from_log, tool
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog


class Zsync:
    """As it is, without TLS: about 4 KB a connection in its favour."""

    name = "zsync"
    method = "zsync against the old file; over plain HTTP since it knows no TLS, which spares it some 4 KB a connection"
    install = "apt install zsync nginx-light"
    trees = False
    deterministic = True
    signed = False
    encrypted = False
    installs = True
    on_line = True
    largest: int | None = None

    def version(self) -> str | None:
        return debian("zsync", "zsync") if tool("zsync", "-V") else None

    def publish(self, job: Job, site: Site) -> None:
        folder = site.folder(self.name, job)
        shutil.copyfile(job.new, folder / "new")
        check(["zsyncmake", "-u", "new", "-f", "new", "-o", str(folder / "new.zsync"), str(folder / "new")])

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.old is not None:
            shutil.copyfile(job.old, device / "old")
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        url = site.url(site.folder(self.name, job), "new.zsync", tls=False)
        seed = ["-i", str(device / "old")] if job.old else []
        return [["zsync", "-q", *seed, "-o", str(device / "new"), url]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)
