"""An OCI pull: images in a real registry (docker-registry, TLS), fetched by skopeo into the device's own store.

skopeo asks for the manifest, then for the blobs that the store lacks, as dockerd and podman do: what a device has of
the old image is not fetched again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.images import Compression, Layer, layer, unpack_last, write_layout
from modelsync_bench.peers.downloads import debian, from_log
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import StepFailed, Used, run_steps, server
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog

_USUAL_PORT = 5000
_REPOSITORY = "m"
_CONFIGURATION = """version: 0.1
log: {{accesslog: {{disabled: false}}, level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "{host}:{port}", secret: modelsync, tls: {{certificate: {chain}, key: {key}}}}}
"""
_LINE = re.compile(r'"(GET|HEAD) (\S+) HTTP/[0-9.]+" (\d+) (\d+)')
_PUSH_SECONDS = 300.0
FIRST_BUILD = 1_767_225_600
"""Time on the entries of the first build's layers; each later build has a day more."""


class RegistryLog(AccessLog):
    """docker-registry's log; it tells bodies only, so an answer's bytes are those of its body."""

    def since(self, mark: int) -> tuple[Request, ...]:
        lines = self._path.read_bytes()[mark:].decode(errors="replace").splitlines()
        found = (_LINE.search(line) for line in lines)
        return tuple(
            Request(f"{m[1]} {m[2]}", int(m[3]), int(m[4]) if m[1] == "GET" else 0, int(m[4])) for m in found if m
        )


class Oci:
    """An image whose one layer is the artifact: the least that an OCI pull can cost."""

    trees = True
    deterministic = True
    signed = False
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None
    install = "apt install skopeo docker-registry ca-certificates"

    def __init__(self, compression: Compression) -> None:
        self.name = f"oci-{compression}"
        self.compression = compression
        self.method = (
            f"skopeo pulls the new image ({compression} layers) from docker-registry; the artifact is the image's last "
            "layer, alone in it but for the story's dependencies"
        )

    def version(self) -> str | None:
        parts = [debian("skopeo", "skopeo"), debian("docker-registry", "docker-registry")]
        return ", ".join(part for part in parts if part) if all(parts) else None

    def layers(self, job: Job, number: int, blobs: Path) -> list[Layer]:
        """The layers of a version's image."""
        return [layer(job.versions[number], "app", self.compression, blobs, built=FIRST_BUILD + number * 86400)]

    def publish(self, job: Job, site: Site) -> None:
        folder = site.folder(self.name, job)
        with self.serve(site, job):
            for number in range(len(job.versions)):
                layout = folder / f"layout{number}"
                write_layout(layout, self.layers(job, number, folder / "blobs"), "v")
                self._copy(site, f"oci:{layout}:v", self._server_reference(site, number), "dest")
                shutil.rmtree(layout)
        shutil.rmtree(folder / "blobs")

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        self._port = site.lab.port(_USUAL_PORT)
        folder = site.folder(self.name, job)
        configuration, log = site.scratch / "registry.yml", site.scratch / "registry.log"
        configuration.write_text(
            _CONFIGURATION.format(
                root=folder / "registry",
                host=site.lab.server_host,
                port=self._port,
                chain=site.certificates.chain,
                key=site.certificates.key,
            )
        )
        command = ["docker-registry", "serve", str(configuration)]
        with server(site.lab, command, log, port=self._port):
            yield RegistryLog(log)

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.held is not None:
            run_steps(site.lab, [self._pull(site, device, job.held)], device, _PUSH_SECONDS)
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        return [self._pull(site, device, len(job.versions) - 1)]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        target = device / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        unpack_last(device / "images", "new", target)
        return target / "app" if job.new.is_dir() else target / "app" / f"model{job.new.suffix}"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        return from_log(log)

    def _pull(self, site: Site, device: Path, number: int) -> list[str]:
        host, port = site.lab.reach(self._port)
        source = f"docker://{host}:{port}/{_REPOSITORY}:v{number}"
        return [*_skopeo(site, "src"), source, f"oci:{device / 'images'}:new"]

    def _server_reference(self, site: Site, number: int) -> str:
        return f"docker://{site.lab.server_host}:{self._port}/{_REPOSITORY}:v{number}"

    def _copy(self, site: Site, source: str, destination: str, side: str) -> None:
        done = subprocess.run(
            site.lab.on_server([*_skopeo(site, side), source, destination]), capture_output=True, text=True
        )
        if done.returncode:
            raise StepFailed(f"`skopeo` could not push: {done.stderr.strip()[-400:]}")


def _skopeo(site: Site, side: str) -> list[str]:
    folder = site.scratch / "skopeo-certificates"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(site.certificates.ca, folder / "ca.crt")
    return ["skopeo", "copy", "-q", "--insecure-policy", f"--{side}-cert-dir", str(folder)]
