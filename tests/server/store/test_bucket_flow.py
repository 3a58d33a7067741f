"""The main job with a bucket as store, by the commands: publish, look, serve, and read by a key."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from modelsync_protocol.access.aws_signature import SigningKey
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.store import device_access
from tests.support.cloud_servers import make_bucket, private_s3, s3_environment
from tests.support.lying_front import LyingFront
from tests.support.waiting import PATIENCE_SECONDS

BIN = Path(sys.executable).parent
Command = Callable[..., str]


@pytest.fixture(scope="module")
def private() -> Iterator[tuple[str, SigningKey]]:
    """An S3 with a private bucket `box`, and its publisher's key."""
    with private_s3("box") as found:
        yield found


def _command(environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(BIN / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.long
def test_the_main_job_runs_from_a_private_bucket(private: tuple[str, SigningKey], tmp_path: Path) -> None:
    endpoint, key = private
    environment = s3_environment(endpoint, key.key, key.secret)
    store, keys = "s3://box/models", ("--keys", str(tmp_path / "keys"))
    trust = json.loads(_command(environment, "modelsync", "init", store, *keys, "--json"))["trust"]
    body = bytearray(random.randbytes(300_000))
    model = tmp_path / "model.bin"
    for number in (1, 2):
        body[number] ^= 255
        model.write_bytes(body)
        done = json.loads(_command(environment, "modelsync", "publish", store, "m", str(model), *keys, "--json"))
    assert done["updates"][0]["bytes"] < 5_000
    listed = json.loads(_command(environment, "modelsync", "list", store, "--json"))
    assert [item["version"] for item in listed["models"][0]["versions"]] == [1, 2]
    assert json.loads(_command(environment, "modelsync", "verify", store, "--json"))["ok"]
    _command(environment, "modelsync", "refresh", store, *keys)
    checked = json.loads(_command(environment, "modelsync", "doctor", store, *keys, "--json"))
    assert {finding["check"] for finding in checked["findings"]} >= {"store", "timestamp"}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{endpoint}/box/models/metadata/1.root.json", timeout=10)
    (tmp_path / "secret").write_text(key.document())
    for origin, secret in ((f"{endpoint}/box/models", ["--sas-file", str(tmp_path / "secret")]), (None, [])):
        data = tmp_path / ("direct" if origin else "served")
        pull = ["modelsyncd", "pull", "m", "--data", str(data), "--trust", trust, "--json", *secret]
        if origin is not None:
            _command({}, *pull, "--origin", origin)
        else:
            with _served(environment, store) as url:
                _command({}, *pull, "--origin", url)
        assert (data / "models" / "m" / "current" / "model.bin").read_bytes() == body


class _served:  # a context manager, used as a function
    def __init__(self, environment: dict[str, str], store: str) -> None:
        command = [str(BIN / "modelsync"), "serve", store]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        url: str = json.loads(self._process.stdout.readline())["url"]
        return url

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_SECONDS)


def test_a_wrong_key_is_one_sentence_and_not_shown(private: tuple[str, SigningKey]) -> None:
    endpoint, key = private
    said = _command(s3_environment(endpoint, key.key, "wrong-secret"), "modelsync", "list", "s3://box/models", code=3)
    assert said.count("\n") == 1 and "403 SignatureDoesNotMatch" in said and "wrong-secret" not in said


async def test_a_session_for_devices_is_cut_down_to_reading_one_prefix(
    s3_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.StreamResponse | None:
        forms.append(dict(request.headers))
        return None

    async with LyingFront(s3_service, answer=answer) as front:
        for variable, value in s3_environment(front.url).items():
            monkeypatch.setenv(variable, value)
        store = f"s3://{make_bucket(s3_service, f'c{secrets.token_hex(8)}')}/fleet"
        made = await device_access(store, timedelta(hours=1), "arn:aws:iam::123456789012:role/devices")
        assert made.origin == f"{front.url}/{store.removeprefix('s3://')}"
        session = SigningKey.parse(made.payload["aws4"])
        assert session.key.startswith("ASIA") and session.token and session.secret not in repr(made.origin)
        assert timedelta(minutes=55) < made.expires - datetime.now(UTC) < timedelta(minutes=65)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
        assert SigningKey.parse((await device_access(store, timedelta(hours=30))).payload["aws4"]).token
        for hours in (0, 37):
            with pytest.raises(UsageError, match="hours"):
                await device_access(store, timedelta(hours=hours))
    assert all("/sts/aws4_request" in form["Authorization"] for form in forms)


async def test_who_makes_no_sessions_says_what_else_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="<Error><Code>AccessDenied</Code><Message>hidden</Message></Error>")

    async with LyingFront("http://127.0.0.1:9", answer=answer) as front:
        for variable, value in s3_environment(front.url).items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(RefusedError, match=r"403 AccessDenied.*modelsync serve") as caught:
            await device_access("s3://box", timedelta(hours=1))
        assert "hidden" not in str(caught.value)
    with pytest.raises(UsageError, match="modelsync serve"):
        await device_access("gs://box", timedelta(hours=1))
