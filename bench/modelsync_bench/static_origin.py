"""nginx as everybody's static origin over TLS, with an access log that tells what each request cost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelsync_bench.certificates import Certificates
from modelsync_bench.lab import Lab
from modelsync_bench.processes import server
from modelsync_bench.result import Request

INSTALL = "apt install nginx-light"
_USUAL_PORT, _PLAIN_PORT = 443, 80
_CONFIGURATION = """
worker_processes 1;
{user}
daemon off;
pid {scratch}/nginx.pid;
error_log {scratch}/nginx.errors;
events {{ worker_connections 256; }}
http {{
    log_format bench '$request_method $request_uri $status $body_bytes_sent $bytes_sent';
    access_log {scratch}/nginx.access bench;
    client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
    server_tokens off;
    sendfile on;
    default_type application/octet-stream;
    server {{
        listen {host}:{port} ssl;
        listen {host}:{plain};
        ssl_certificate {chain};
        ssl_certificate_key {key};
        root {root};
    }}
}}
"""


def binary() -> str | None:
    """nginx, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class AccessLog:
    """A log of `method path status body all` lines; `mark()` before, `since(mark)` after."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """Where the log ends now."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(self, mark: int) -> tuple[Request, ...]:
        """The requests logged after `mark`."""
        if not self._path.exists():
            return ()
        with self._path.open("rb") as file:
            file.seek(mark)
            lines = file.read().decode(errors="replace").splitlines()
        found = []
        for line in lines:
            method, path, status, body, whole = line.rsplit(" ", 4) if line.count(" ") == 4 else ("", "", "0", "0", "0")
            if method:
                found.append(Request(f"{method} {path}", int(status), int(body), int(whole)))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class StaticOrigin:
    """Serves the folder `root`, with TLS on `port` and without on `plain_port`."""

    root: Path
    port: int
    plain_port: int
    log: AccessLog


@contextmanager
def static_origin(lab: Lab, root: Path, scratch: Path, certificates: Certificates) -> Iterator[StaticOrigin | None]:
    """Run nginx meanwhile; None if it is not installed."""
    program = binary()
    if program is None:
        yield None
        return
    port, plain = lab.port(_USUAL_PORT), lab.port(_PLAIN_PORT)
    configuration = scratch / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            scratch=scratch,
            host=lab.server_host,
            port=port,
            plain=plain,
            chain=certificates.chain,
            key=certificates.key,
            root=root,
        )
    )
    command = [program, "-c", str(configuration), "-e", str(scratch / "nginx.errors"), "-p", str(scratch)]
    with server(lab, command, scratch / "nginx.out", port=port):
        yield StaticOrigin(root, port, plain, AccessLog(scratch / "nginx.access"))
