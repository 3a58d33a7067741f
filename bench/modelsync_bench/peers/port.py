"""The port of a peer: one way of bringing a new version to a device. Adapters claim; the harness checks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelsync_bench.certificates import Certificates
from modelsync_bench.lab import Lab
from modelsync_bench.processes import Used
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog, StaticOrigin


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be brought: `versions` (files, or directories), oldest first, the last of them to a device.

    `held` is the index of the version that the device has, None if it has nothing.
    """

    key: str
    versions: tuple[Path, ...]
    held: int | None

    @property
    def new(self) -> Path:
        """The version that is wanted."""
        return self.versions[-1]

    @property
    def old(self) -> Path | None:
        """The version that is held."""
        return None if self.held is None else self.versions[self.held]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer works: the line, certificates, everybody's static origin, and the peers' folders below `peers`."""

    lab: Lab
    certificates: Certificates
    static: StaticOrigin | None
    peers: Path
    scratch: Path

    def folder(self, peer: str, job: Job) -> Path:
        """A peer's own folder for a job; it lasts from publishing to the last fetch. The static origin serves it."""
        return self.peers / peer / job.key

    def url(self, folder: Path, name: str, *, tls: bool = True) -> str:
        """Where the device finds a file of a folder below `peers` on the static origin."""
        assert self.static is not None
        host, port = self.lab.reach(self.static.port if tls else self.static.plain_port)
        return f"http{'s' if tls else ''}://{host}:{port}/{folder.relative_to(self.peers)}/{name}"


@dataclass(frozen=True, slots=True)
class Account:
    """What a peer says that it fetched: bytes of bodies, and HTTP requests (None: it has none).

    `memory` (bytes) and `cpu` (seconds) are given where a process did the work that was there before the steps.
    """

    payload_bytes: int | None
    requests: int | None
    memory: int | None = None
    cpu: float | None = None


class Peer(Protocol):
    """One way of updating. All its methods may be called for several jobs, one after the other."""

    name: str
    method: str
    """A sentence: how it is used, and what of it is measured."""
    install: str
    """How to get it."""
    trees: bool
    """Whether it takes directories; if not, the harness gives it a tar of them."""
    deterministic: bool
    """Whether two runs are promised to differ by less than 1 % in bytes."""
    signed: bool
    installs: bool
    """Whether it can bring a version to a device that has none."""
    encrypted: bool
    """Whether it speaks TLS here; who does not is some 4 KB a connection cheaper for that alone."""
    on_line: bool
    """Whether it fetches over the line; if not, only its payload is known."""
    largest: int | None
    """Bytes of the largest version that it can be asked to publish in bearable time and memory."""

    def version(self) -> str | None:
        """The version that is installed; None if it can't run here."""

    def publish(self, job: Job, site: Site) -> None:
        """Put all that is served into the peer's folder; called once a job, and not counted."""

    def serve(self, site: Site, job: Job) -> AbstractContextManager[AccessLog | None]:
        """Servers that run meanwhile, and their access log; both have nothing to do with the static origin's."""

    def hold(self, job: Job, site: Site, device: Path) -> AbstractContextManager[None]:
        """Bring the empty folder `device` to where the device has the old version; not counted. What is started for it
        runs until the context is left."""

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        """The commands that fetch and rebuild, in order; run again after an interruption they go on. Counting has begun
        when this is called."""

    def settle(self, job: Job, site: Site, device: Path) -> None:
        """Wait, after the steps, for what is still to come over the line; it is counted too."""

    def result(self, job: Job, device: Path) -> Path:
        """Where the new version lies afterwards."""

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        """What was fetched, from the access log and from what the steps printed."""
