"""What the peers share that fetch one ready-made file by HTTPS GET (curl) and rebuild the new version from it."""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog, binary


class Download(ABC):
    """Base of such peers: `make` and `rebuild` are theirs. The device is told the file's address beforehand, free of
    charge: no catalogue, no metadata, no signature is fetched."""

    name = ""
    method = ""
    install = ""
    suffix = ""
    trees = False
    deterministic = True
    signed = False
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None
    resumes = False
    """Whether a download that was cut goes on (curl -C -)."""

    @abstractmethod
    def version(self) -> str | None: ...

    @abstractmethod
    def make(self, old: Path | None, new: Path, served: Path) -> None:
        """Write what is served."""

    @abstractmethod
    def rebuild(self, old: Path | None, fetched: Path, new: Path) -> list[str] | None:
        """The command that makes the new version; None if what is fetched is it."""

    def publish(self, job: Job, site: Site) -> None:
        self.make(job.old, job.new, site.folder(self.name, job) / f"new{self.suffix}")

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.old is not None:
            shutil.copyfile(job.old, device / "old")
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        fetched = device / f"new{self.suffix}"
        command = curl(site, site.url(site.folder(self.name, job), fetched.name), fetched, resume=self.resumes)
        rebuild = self.rebuild(device / "old" if job.old else None, fetched, device / "new")
        return [command] + ([rebuild] if rebuild else [])

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)


def from_log(log: Sequence[Request]) -> Account:
    """All bodies of a log."""
    return Account(sum(one.body_bytes for one in log), len(log))


def curl(site: Site, url: str, target: Path, *, resume: bool = False) -> list[str]:
    """One GET; `resume`: only what is missing at the end of `target`."""
    more = ["-C", "-"] if resume else []
    return ["curl", "-sS", "--fail", *more, "--cacert", str(site.certificates.ca), "-o", str(target), url]


def tool(name: str, *arguments: str) -> str | None:
    """The first line that a program says of itself; None if it, curl or nginx is not installed."""
    if shutil.which(name) is None or shutil.which("curl") is None or binary() is None:
        return None
    done = subprocess.run([name, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else name


def distribution(name: str) -> str | None:
    """The version of a Python package; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def debian(package: str, program: str) -> str | None:
    """The version of a Debian package whose program does not tell; None if the program is not installed."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}", package], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or program


def check(argv: list[str]) -> None:
    """Run a publisher's command; its error's end in the exception."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{Path(argv[0]).name}` failed: {(done.stderr or done.stdout).strip()[-400:]}")
