"""A store's directory behind real origins: ours as a process, and nginx with the configuration of docs/origin.md."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from obstore.store import S3Store

from tests.support.cloud_servers import make_bucket, s3_environment
from tests.support.nginx import running_nginx
from tests.support.waiting import PATIENCE_SECONDS

FRONT = ("--front", "nginx")
CONTENT = bytes(range(256)) * 400
PACK = "packs/" + "ab" * 32
UPDATE = "updates/" + "ab" * 32 + "/" + "cd" * 32 + ".v1"
OBJECTS = {
    PACK: CONTENT,
    UPDATE: b"update",
    "manifests/" + "ab" * 32: b"manifest",
    "metadata/1.root.json": b'{"root":1}',
    "metadata/timestamp.json": b'{"timestamp":1}',
    "bundles/anomaly": b"bundle",
    "packs/empty": b"",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """A running origin; `tls` verifies it (None: plain HTTP)."""

    url: str
    store: Path
    tls: ssl.SSLContext | None
    process: subprocess.Popen[str]
    fronted: bool = False
    bucket: str = ""
    """The URL of the bucket that holds what lies in `store` too, if that is what is served."""

    def put(self, path: str, data: bytes) -> None:
        """Publish an object later on; returns when it must be seen."""
        if self.bucket:
            put(self.bucket, path, data)
        else:
            temp = (self.store / path).with_name(".tmp-new")
            temp.write_bytes(data)
            temp.replace(self.store / path)
        # What a fleet asks of a bucket, or of us behind nginx, is bounded by a second each.
        time.sleep(1.1 * (bool(self.bucket) + self.fronted))

    def connect(self) -> socket.socket:
        """A raw connection, TLS included."""
        host, port = self.url.rpartition("//")[2].split(":")
        raw = socket.create_connection((host, int(port)), timeout=10)
        return self.tls.wrap_socket(raw, server_hostname=host) if self.tls else raw


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """See `make_certificate`; (certificate, key)."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-made CA that is its own server certificate for 127.0.0.1; its two files."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelsync test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, SHA256())
    )
    cert_file, key_file = folder / "chain.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A directory that looks like a store."""
    return make_store(tmp_path / "store")


@pytest.fixture(
    scope="module",
    params=[
        "modelsync",
        "modelsync-tls",
        "nginx",
        "nginx-tls",
        "front",
        "front-tls",
        "s3",
        "s3front",
        pytest.param("s3-tls", marks=pytest.mark.long),
        pytest.param("s3front-tls", marks=pytest.mark.long),
    ],
)
def origin(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Origin]:
    """Each kind of origin over the same directory."""
    kind, _, tls = str(request.param).partition("-")
    folder = tmp_path_factory.mktemp(kind)
    chain = certificate if tls else None
    if kind.startswith("s3"):
        options = FRONT if kind == "s3front" else ()
        with served_bucket(request.getfixturevalue("s3_service"), folder, chain, options) as running:
            yield running
        return
    store = make_store(folder / "store")
    if kind == "front":
        with serve(store, chain, options=FRONT) as running:
            yield running
        return
    with (serve if kind == "modelsync" else nginx)(store, chain, folder) as running:
        yield running


def make_store(folder: Path) -> Path:
    """Write OBJECTS below `folder`."""
    for path, data in OBJECTS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@contextmanager
def serve(
    store: Path | str,
    certificate: tuple[Path, Path] | None,
    folder: Path | None = None,
    *,
    processes: int | None = None,
    port: int = 0,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Origin]:
    """Run `modelsync serve` until the block ends."""
    command = [str(Path(sys.executable).with_name("modelsync")), "serve", str(store), "--port", str(port), *options]
    if processes:
        command += ["--processes", str(processes)]
    if certificate:
        command += ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        yield Origin(json.loads(line)["url"], Path(store), _trusting(certificate), process, "--front" in options)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def served_bucket(
    endpoint: str, folder: Path, certificate: tuple[Path, Path] | None, options: Sequence[str] = ()
) -> Iterator[Origin]:
    """Run `modelsync serve s3://…` until the block ends."""
    name = make_bucket(endpoint, f"c{secrets.token_hex(8)}")
    store = make_store(folder / "store")
    for path, data in OBJECTS.items():
        put(f"{endpoint}/{name}", path, data)
    with serve(f"s3://{name}", certificate, options=options, environment=s3_environment(endpoint)) as found:
        yield dataclasses.replace(found, store=store, bucket=f"{endpoint}/{name}")


def put(bucket: str, path: str, data: bytes) -> None:
    """Put an object into a bucket (a URL) as somebody else would."""
    endpoint, _, name = bucket.rpartition("/")
    store = S3Store(
        name,
        endpoint=endpoint,
        client_options={"allow_http": True},
        access_key_id="testing",
        secret_access_key="testing",
    )
    obstore.put(store, path, data)


@contextmanager
def nginx(store: Path, certificate: tuple[Path, Path] | None, folder: Path) -> Iterator[Origin]:
    """Run nginx with the documented configuration until the block ends."""
    with running_nginx(store, certificate, folder) as (url, process):
        yield Origin(url, store, _trusting(certificate), process)


def _trusting(certificate: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=str(certificate[0])) if certificate else None
