"""casync: an index by GET, then a GET for each chunk that the old file lacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.lab import LabError
from modelsync_bench.peers.downloads import check, debian, from_log, tool
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog


class Casync:
    """A static chunk store over HTTPS, with the old version as seed."""

    name = "casync"
    method = "casync's default chunks (64 KiB) in a static store over HTTPS, the old version as seed"
    install = "apt install casync nginx-light ca-certificates"
    trees = True
    deterministic = True
    signed = False
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None

    def version(self) -> str | None:
        return debian("casync", "casync") if tool("casync", "--version") else None

    def publish(self, job: Job, site: Site) -> None:
        folder = site.folder(self.name, job)
        check(
            [
                "casync",
                "make",
                *self._options(job),
                f"--store={folder / 's'}",
                str(folder / self._index(job)),
                str(job.new),
            ]
        )

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        if not site.lab.trusts_ca:
            raise LabError("casync takes no CA, so it needs a network namespace where the system trusts the bench's.")
        yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.old is not None and job.old.is_dir():
            shutil.copytree(job.old, device / "old", symlinks=True)
        elif job.old is not None:
            shutil.copyfile(job.old, device / "old")
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        folder = site.folder(self.name, job)
        seed = [f"--seed={device / 'old'}"] if job.old else []
        store = f"--store={site.url(folder, 's')}"
        index = site.url(folder, self._index(job))
        return [["casync", "extract", *self._options(job), *seed, store, index, str(device / "new")]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)

    @staticmethod
    def _index(job: Job) -> str:
        return "new.caidx" if job.new.is_dir() else "new.caibx"

    @staticmethod
    def _options(job: Job) -> list[str]:
        # Of a tree what the comparison covers, and what a deployed tree needs: no owners, no times.
        return ["--without=all", "--with=symlinks", "--with=permissions"] if job.new.is_dir() else []
