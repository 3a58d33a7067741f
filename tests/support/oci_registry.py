"""Debian's docker-registry on a free port of this machine, with or without a password, and pushing artifacts to it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.addresses import free_port
from tests.support.waiting import end, listens

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1"
USER, PASSWORD = "reader", "secret"
_HTPASSWD = f"{USER}:$2b$04$8co5jLzgF30dmW5ZrFjfs.bjIuDP2f4CU8N5e9WUuPUms/CfkQrcu\n"


def descriptor(kind: str, data: bytes, **notes: str) -> dict[str, Any]:
    """A layer; `path` and `title` stand for the annotations of ModelPack and ORAS."""
    names = {"path": "org.cncf.model.filepath", "title": "org.opencontainers.image.title"}
    found: dict[str, Any] = {
        "mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data),
    }  # fmt: skip
    return found | ({"annotations": {names.get(key, key): value for key, value in notes.items()}} if notes else {})


def artifact(layers: Sequence[dict[str, Any]], kind: str = "application/vnd.cncf.model.manifest.v1+json") -> bytes:
    """A manifest of these layers."""
    config = descriptor("application/vnd.cncf.model.config.v1+json", b"{}")
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config, "layers": layers}
    return json.dumps(document).encode()


def tarball(files: dict[str, bytes], *extra: tarfile.TarInfo, gz: bool = False) -> bytes:
    """A tar of files and of members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)
    return gzip.compress(out.getvalue(), mtime=0) if gz else out.getvalue()


class Registry:
    """A running registry at `host`."""

    def __init__(self, host: str, password: bool) -> None:
        self.host, self._password = host, password

    def push(self, repository: str, tag: str, manifest: bytes, *blobs: bytes) -> str:
        """Push an artifact; its digest."""
        for blob in (b"{}", *blobs):
            answer = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
            place = answer.headers["Location"]
            digest = hashlib.sha256(blob).hexdigest()
            self._ask("PUT", f"{place}{'&' if '?' in place else '?'}digest=sha256:{digest}", blob)
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, MANIFEST)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> Any:
        from modelsync_server.sources.credentials import basic

        url = path if path.startswith("http") else f"http://{self.host}{path}"
        headers = {"Content-Type": kind, **(basic(USER, PASSWORD) if self._password else {})}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer


@contextmanager
def registry(folder: Path, *, password: bool = False) -> Iterator[Registry]:
    """Run a registry that keeps its blobs below `folder`; with `password` it lets in USER only."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    (folder / "htpasswd").write_text(_HTPASSWD)
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}, "delete": {"enabled": True}},
        "http": {"addr": host},
    }
    if password:
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        listens(port, process, (folder / "log").read_text)
        yield Registry(host, password)
    finally:
        end(process)
