"""Secrets never reach a log, a report or an error text: each is planted, what holds it fails, all is searched.

A planted secret is looked for in every form that somebody could read it back from: as it is, URL-quoted, base64.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web

from modelsync_server.store.azure_account import CONNECTION_VARIABLE, ENDPOINT_VARIABLE, SAS_VARIABLE
from tests.support.azure_world import NAME, cloud
from tests.support.shop import Shop

SECRET = "pL4nted+s3cret/0123456789abcdef=="
"""Looks like a base64 key, with characters that URLs quote."""

_KEY = f"SharedAccessKey={SECRET}"
_ENCODED = base64.b64encode(SECRET.encode()).decode()
_FORMS = {SECRET, quote(SECRET, safe=""), quote(SECRET), _ENCODED.rstrip("=")}
_SAS = f"sv=2024-01-01&sig={quote(SECRET, safe='')}"
_ORIGIN = "http://refuses.everybody"
"""Stands for an origin of the test's own, which answers 403."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that must fail in its own words: arguments, files that it finds, its environment."""

    arguments: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def _run(config: str, **files: str) -> Command:
    return Command(("modelsyncd", "run", "--config", "c.toml"), {"c.toml": f'data = "d"\n{config}\n', **files})


def _pull(origin: str, *more: str, **files: str) -> Command:
    return Command(("modelsyncd", "pull", "m", "--origin", origin, "--data", "d", "--trust", "root", *more), files)


COMMANDS = {
    "a connection string that lacks its device": _run(f'connection_string = "HostName=h;{_KEY}"'),
    "a connection string of another type": _run(f'connection_string = ["{_KEY}"]'),
    "a connection string in a setting that is none": _run(f'conection_string = "HostName=h;DeviceId=d;{_KEY}"'),
    "a connection string without its closing quote": _run(f'connection_string = "HostName=h;DeviceId=d;{_KEY}'),
    "a file with half a connection string": _run('connection_string_file = "f"', f=f"DeviceId=d;{_KEY}\n"),
    "a key that is not base64": _run(f'connection_string = "HostName=h;DeviceId=d;SharedAccessKey=!{SECRET}"'),
    "a proxy with a password and a wrong form": _run(f'proxy = "ftp://u:{quote(SECRET, safe="")}@h:1"'),
    "an enrolment key that is none": _run(
        'dps_scope = "s"\ndps_registration = "r"\ndps_key_file = "k"\ndps_host = "127.0.0.1"', k=f"!{SECRET}"
    ),
    "an origin with a password": _pull(f"http://u:{quote(SECRET, safe='')}@127.0.0.1:1"),
    "an origin with a query that refuses it": _pull(f"{_ORIGIN}/?{_SAS}"),
    "an origin with a query and a wrong scheme": _pull(f"ftp://127.0.0.1:1/?{_SAS}"),
    "a proxy that refuses": _pull(
        "http://127.0.0.2:1", "--proxy", _ORIGIN.replace("//", f"//u:{quote(SECRET, safe='')}@")
    ),
    "a query in a file that is none": _pull(_ORIGIN, "--sas-file", "s", s=f"{SECRET} {SECRET}\n"),
    "a hub's service string that lacks its policy": Command(
        ("modelsync", "twin", "get", "pi"), environment={"MODELSYNC_SERVICE": f"HostName=h;{_KEY}"}
    ),
    "a hub's service string whose key is none": Command(
        ("modelsync", "twin", "get", "pi"),
        environment={"MODELSYNC_SERVICE": f"HostName=127.0.0.1;SharedAccessKeyName=p;SharedAccessKey=!{SECRET}"},
    ),
    "a hub that nobody answers for": Command(
        ("modelsync", "twin", "get", "pi", "--service", f"HostName=127.0.0.1:1;SharedAccessKeyName=p;{_KEY}")
    ),
    "a storage account's connection string that is none": Command(
        ("modelsync", "list", "azblob://acct/box"),
        environment={CONNECTION_VARIABLE: f"AccountName=a;AccountKey=!{SECRET}"},
    ),
    "a storage account that refuses": Command(
        ("modelsync", "list", "azblob://acct/box"),
        environment={CONNECTION_VARIABLE: f"BlobEndpoint={_ORIGIN}/acct;AccountName=acct;AccountKey={_ENCODED}"},
    ),
    "a container's address with a query": Command(("modelsync", "list", f"azblob://acct/box?{_SAS}")),
    "a container's query, refused": Command(
        ("modelsync", "list", "azblob://acct/box"),
        environment={SAS_VARIABLE: _SAS, ENDPOINT_VARIABLE: f"{_ORIGIN}/acct"},
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
async def test_a_command_that_fails_does_not_repeat_its_secret(case: str, tmp_path: Path) -> None:
    command = COMMANDS[case]
    shop = await Shop.open(tmp_path)
    (tmp_path / "root").write_bytes(shop.trust.read_bytes())
    for name, text in command.files.items():
        (tmp_path / name).write_text(text)
    async with _refusing_origin([]) as origin:
        output = await _first_words(command, tmp_path, origin)
    assert output.strip(), "it said nothing"
    _assert_clean(output.decode(), case)
    assert b"Traceback" not in output


async def _first_words(command: Command, folder: Path, origin: str) -> bytes:
    """What it says until it ends; of a daemon, which goes on trying, until it has said what it can't do."""

    def placed(text: str) -> str:
        return text.replace(_ORIGIN.partition("//")[2], origin.partition("//")[2])

    program, *arguments = map(placed, command.arguments)
    child = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name(program),
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **{name: placed(text) for name, text in command.environment.items()}},
    )
    assert child.stdout is not None
    output = b""
    async with asyncio.timeout(60):
        while line := await child.stdout.readline():
            output += line
            if b"WARNING" in line:
                break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
    return output


async def test_a_device_whose_origin_refuses_its_secret_reports_that_without_it(tmp_path: Path, worker_id: str) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes(NAME, random.randbytes(5000))
    (tmp_path / "sas").write_text(_SAS)
    asked: list[str] = []
    async with _refusing_origin(asked) as origin, cloud(tmp_path, worker_id) as made:
        text = made.hub.add_device("pi")
        await made.start(
            shop.trust, f'connection_string = "{text}"', f'origin_sas_file = "{tmp_path / "sas"}"', "stall_seconds = 1"
        )
        made.wish(1, origin)
        await made.until(lambda: made.model().get("error"), "a reported refusal")
        status = await made.invoke("status")
        refused = await made.invoke("secret", {"sas": f"{SECRET} is no query"})
        await made.until(lambda: asked, "a request with the secret")
        command = Path(sys.executable).with_name("modelsyncd")
        shown = await asyncio.create_subprocess_exec(
            command, "status", "--data", str(made.data.root), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await shown.communicate()
        await made.stop()
        key = text.partition("SharedAccessKey=")[2].partition(";")[0]
        readable = {
            "log": made.log.read_text(),
            "reported twin": json.dumps(made.hub.reported("pi")),
            "status": json.dumps(status.payload),
            "refusal": json.dumps(refused.payload),
            "status command": printed.decode(),
            "state": (made.data.root / "state.db").read_bytes().decode(errors="replace"),
        }
    assert any(quote(SECRET, safe="") in url for url in asked), "the secret did not even reach the origin"
    for where, content in readable.items():
        _assert_clean(content, where)
        assert key not in content, where


@pytest.mark.parametrize("form", sorted(_FORMS))
def test_the_search_finds_a_planted_secret(form: str) -> None:
    """Without this the tests above could pass by looking for nothing."""
    with pytest.raises(AssertionError):
        _assert_clean(f"GET https://x/?sig={form} failed", "log")


def _assert_clean(text: str, where: str) -> None:
    for form in _FORMS:
        # Half a secret is a secret: whatever is cut short in an error is still searched for.
        assert form[:12] not in text, f"{where} holds the secret: {text[:2000]}"


@asynccontextmanager
async def _refusing_origin(asked: list[str]) -> AsyncIterator[str]:
    """An origin that answers 403 to everybody and writes down what it was asked."""

    async def refuse(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(status=403)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
