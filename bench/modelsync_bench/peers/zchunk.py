"""zchunk: one file with an index, of which zckdl fetches the chunks that the old .zck lacks by ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.lab import LabError
from modelsync_bench.peers.downloads import check, debian, from_log, tool
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog


class Zchunk:
    """zckdl over HTTPS, with the CA in the system's place since it takes none."""

    name = "zchunk"
    method = "zck's default chunks; zckdl fetches by ranges over HTTPS what the held .zck lacks, unzck rebuilds"
    install = "apt install zchunk nginx-light ca-certificates"
    trees = False
    deterministic = True
    signed = False
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None

    def version(self) -> str | None:
        return debian("zchunk", "zckdl") if tool("zckdl", "-V") else None

    def publish(self, job: Job, site: Site) -> None:
        folder = site.folder(self.name, job)
        check(["zck", "-o", str(folder / "new.zck"), str(job.new)])
        if job.old is not None:
            check(["zck", "-o", str(folder / "old.zck"), str(job.old)])

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        if not site.lab.trusts_ca:
            raise LabError("zckdl takes no CA, so it needs a network namespace where the system trusts the bench's.")
        yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.old is not None:
            (device / "old.zck").write_bytes((site.folder(self.name, job) / "old.zck").read_bytes())
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        seed = ["-s", "old.zck"] if job.old else []
        return [["zckdl", "-q", *seed, site.url(site.folder(self.name, job), "new.zck")], ["unzck", "new.zck"]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)
