"""rsync: its rolling checksums against the old file that lies where the new one goes, from a daemon behind TLS."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelsync_bench.peers.downloads import tool
from modelsync_bench.peers.port import Account, Job, Site
from modelsync_bench.processes import Used, server
from modelsync_bench.result import Request
from modelsync_bench.static_origin import AccessLog

_USUAL_PORT, _PLAIN_PORT = 874, 873
_DAEMON = """port = {plain}
address = {host}
use chroot = no
uid = root
gid = root
pid file = {scratch}/rsyncd.pid
[m]
path = {root}
read only = yes
"""
_TUNNEL = """foreground = yes
pid =
[rsync]
accept = {host}:{port}
connect = {host}:{plain}
cert = {chain}
key = {key}
"""


class Rsync:
    """`rsync-ssl` with openssl as the device's end of the tunnel, stunnel as the server's."""

    name = "rsync"
    method = "rsync -z --no-whole-file over TLS (rsync-ssl with openssl, stunnel before rsyncd) onto the old file"
    install = "apt install rsync stunnel4 openssl"
    trees = True
    deterministic = False
    """How its stream is cut into packets and records is up to timing: 10 to 13 KB came out up to 3 % apart."""
    signed = False
    encrypted = True
    installs = True
    on_line = True
    largest: int | None = None

    def version(self) -> str | None:
        there = all(shutil.which(name) for name in ("rsync", "rsync-ssl", "stunnel", "openssl"))
        return tool("rsync", "--version") if there else None

    def publish(self, job: Job, site: Site) -> None:
        target = site.folder(self.name, job) / "served" / "new"
        if job.new.is_dir():
            shutil.copytree(job.new, target, symlinks=True)
        else:
            target.parent.mkdir()
            shutil.copyfile(job.new, target)

    @contextmanager
    def serve(self, site: Site, job: Job) -> Iterator[AccessLog | None]:
        self._port, plain = site.lab.port(_USUAL_PORT), site.lab.port(_PLAIN_PORT)
        fields = {
            "host": site.lab.server_host,
            "port": self._port,
            "plain": plain,
            "scratch": site.scratch,
            "root": site.folder(self.name, job) / "served",
            "chain": site.certificates.chain,
            "key": site.certificates.key,
        }
        daemon, tunnel = site.scratch / "rsyncd.conf", site.scratch / "stunnel.conf"
        daemon.write_text(_DAEMON.format(**fields))
        tunnel.write_text(_TUNNEL.format(**fields))
        (site.scratch / "rsyncd.pid").unlink(missing_ok=True)
        start = ["rsync", "--daemon", "--no-detach", f"--config={daemon}"]
        with (
            server(site.lab, start, site.scratch / "rsyncd.log", port=plain),
            server(site.lab, ["stunnel", str(tunnel)], site.scratch / "stunnel.log", port=self._port),
        ):
            yield None

    @contextmanager
    def hold(self, job: Job, site: Site, device: Path) -> Iterator[None]:
        if job.old is not None and job.old.is_dir():
            shutil.copytree(job.old, device / "new", symlinks=True)
        elif job.old is not None:
            shutil.copyfile(job.old, device / "new")
        yield

    def steps(self, job: Job, site: Site, device: Path) -> list[list[str]]:
        host, port = site.lab.reach(self._port)
        settings = [
            "env",
            f"RSYNC_SSL_CA_CERT={site.certificates.ca}",
            f"RSYNC_SSL_PORT={port}",
            "RSYNC_SSL_TYPE=openssl",
        ]
        if job.new.is_dir():
            # By content: files that were installed again have new times.
            what = ["-rlpc", "--delete", f"rsync://{host}/m/new/", f"{device / 'new'}/"]
        else:
            what = [f"rsync://{host}/m/new", str(device / "new")]
        return [[*settings, "rsync-ssl", "-z", "-I", "--no-whole-file", "--partial", "--stats", *what]]

    def settle(self, job: Job, site: Site, device: Path) -> None:
        return

    def result(self, job: Job, device: Path) -> Path:
        return device / "new"

    def account(self, job: Job, log: Sequence[Request], used: Sequence[Used]) -> Account:
        """What rsync itself says to have received."""
        said = re.search(r"Total bytes received: ([\d,]+)", used[-1].output)
        return Account(int(said[1].replace(",", "")) if said else None, None)
