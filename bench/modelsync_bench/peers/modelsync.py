"""modelsync itself: the real publisher, `modelsync serve` over TLS, and `modelsyncd pull` as the device."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelsync_bench.lab import LabError
from modelsync_bench.peers.downloads import check, distribution, from_log
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used, run_steps, server
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog

_USUAL_PORT = 8443
_PREPARE_SECONDS = 600.0
NAME = "m"
"""The model's name, as short as the download peers' file names."""


def program(name: str) -> str:
    """A program of ours, from the environment that this one runs in."""
    return str(Path(sys.executable).with_name(name))


class Modelsync:
    """Trust, prices and update: all that a device fetches which was told to look."""

    name = "modelsync"
    method = (
        "modelsyncd pull from modelsync serve: TUF bundle and update, verified against the signed manifest; "
        "without the twin's traffic, which the story scenario counts"
    )
    install = "make setup"
    trees = True
    deterministic = True
    signed = True
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None

    def version(self) -> str | None:
        return distribution("modelsync-daemon")

    def publish(self, job: Job, site: Site) -> None:
        """As it happens: the device fetched what it holds before the later versions were published."""
        folder = site.folder(self.name, job)
        store = folder / "store"
        held = -1 if job.held is None else job.held
        check([program("modelsync"), "init", str(store), "--keys", str(folder / "keys")])
        for version in job.versions[: held + 1]:
            self._publish(folder, version)
        device = folder / "device"
        device.mkdir()
        if job.held is not None:
            with self.serve(site, job):
                run_steps(site.lab, self.steps(job, site, device), device, _PREPARE_SECONDS)
        for version in job.versions[held + 1 :]:
            self._publish(folder, version)

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        store = site.folder(self.name, job) / "store"
        self._port = site.lab.port(_USUAL_PORT)
        tls = ["--tls-cert", str(site.certificates.chain), "--tls-key", str(site.certificates.key)]
        place = ["--host", site.lab.server_host, "--port", str(self._port)]
        command = [program("modelsync"), "serve", str(store), *place, *tls]
        with server(site.lab, command, site.scratch / "modelsync-serve.log", port=self._port):
            yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        shutil.copytree(site.folder(self.name, job) / "device", device, symlinks=True, dirs_exist_ok=True)
        yield

    def origin(self, site: Site, job: Job) -> str:
        """The origin's URL, as the device knows it."""
        host, port = site.lab.reach(self._port)
        return f"https://{host}:{port}"

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        trust = site.folder(self.name, job) / "store" / "metadata" / "1.root.json"
        options = ["--data", str(device / "data"), "--trust", str(trust), "--ca", str(site.certificates.ca), "--json"]
        return [[program("modelsyncd"), "pull", NAME, "--origin", self.origin(site, job), *options]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        current = (device / "data" / "models" / NAME / "current").resolve()
        return current if job.new.is_dir() else current / f"model{job.new.suffix}"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        """The daemon's own account; the bundle is not among `plan`'s bytes, so the payload is at least that."""
        document: dict[str, Any] = json.loads(used[-1].output)
        return Account(document["plan"]["bytes"], document["wire"]["requests"])

    def _publish(self, folder: Path, version: Path) -> None:
        # A model has one file name, whatever its versions are called where they lie.
        artifact = version
        if version.is_file():
            artifact = folder / f"model{version.suffix}"
            shutil.copyfile(version, artifact)
        keys = ["--keys", str(folder / "keys")]
        check([program("modelsync"), "publish", str(folder / "store"), NAME, str(artifact), *keys])


class ModelsyncNginx(Modelsync):
    """The same store behind nginx, whose log tells what each request cost; its answers carry more headers."""

    name = "modelsync-nginx"
    method = "as modelsync, but the store is served by nginx, whose access log shows each request"

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        if site.static is None:
            raise LabError("nginx is not installed: apt install nginx-light")
        yield None

    def origin(self, site: Site, job: Job) -> str:
        return site.url(site.folder(self.name, job), "store")

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)
