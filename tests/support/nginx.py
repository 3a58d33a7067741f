"""nginx as a store's origin, with the configuration that docs/origin.md prints. For tests and for the benchmark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.addresses import free_port
from tests.support.waiting import PATIENCE_SECONDS, listens

_DOCUMENT = Path(__file__).parents[2] / "docs" / "origin.md"


@contextmanager
def running_nginx(
    store: Path, certificate: tuple[Path, Path] | None, folder: Path, *, workers: int = 1, connections: int = 512
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield (url, process) of nginx over `store` until the block ends; its own files go to `folder`. AssertionError
    if it is not installed or does not start; `certificate` is (chain, key) for TLS."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    assert program, "nginx is not installed, and it must serve a store as origin: `apt-get install nginx-light`"
    port = free_port()
    config = folder / "nginx.conf"
    # Run by root nginx would drop to a user who may not read the test's folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"{user}worker_processes {workers};\npid {folder}/pid;\nevents {{ worker_connections {connections}; }}\n"
        f"http {{\naccess_log off;\n{temporary}{_documented(store, certificate, port)}}}\n"
    )
    command = [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        listens(port, process, (folder / "error.log").read_text)
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


def _documented(store: Path, certificate: tuple[Path, Path] | None, port: int) -> str:
    found = re.search(r"```nginx\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    assert found, "docs/origin.md has lost its nginx configuration"
    server = found[1].replace("/srv/modelsync/store", str(store))
    listen = f"listen 127.0.0.1:{port}"
    if certificate:
        listen += f" ssl; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]}"
    assert "listen 127.0.0.1:8080;" in server
    return server.replace("listen 127.0.0.1:8080", listen)
