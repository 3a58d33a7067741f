"""Each ready-made application goes the whole walk against the real thing, with the settings that its page shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.consumers import configured
from modelsync_daemon.consumers.configured import Configured
from tests.daemon.fakes import NAME
from tests.support.addresses import free_port
from tests.support.consumer_walk import BAD, CRASHES, HANGS, walk

EXAMPLES = Path(__file__).parents[3] / "examples" / "consumers"


def settings(example: str, replaced: Mapping[str, str]) -> Configured:
    """The example's settings, with places and ports of this test."""
    text = (EXAMPLES / example).read_text()
    for old, new in {"models.detector": f"models.{NAME}", **replaced}.items():
        assert old in text, f"{example} does not say {old}"
        text = text.replace(old, new)
    return configured.read(tomllib.loads(text)["models"], {}, Path("/"))


@dataclass
class Kept:
    """A program that is started again whenever it ends, as a service manager does; its process id is in `pidfile`."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    pidfile: Path | None = None
    log: Path | None = None
    process: asyncio.subprocess.Process | None = None

    def kill(self) -> None:
        """As a watchdog does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        """As long as the context lasts."""
        task = asyncio.ensure_future(self._keep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.kill()

    async def _keep(self) -> None:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(self.log.open("wb")) if self.log else None
            while True:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    env={**os.environ, **self.environment},
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
                if self.pidfile is not None:
                    self.pidfile.write_text(f"{self.process.pid}\n")
                await self.process.wait()
                self.kill()
                await asyncio.sleep(0.1)


def get(url: str, document: Any = None) -> Any:
    """One request; OSError if it fails."""
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def asking(url: str, document: Any = None, key: str = "version") -> Callable[[], Any]:
    """A client that asks for the version."""

    async def ask() -> int:
        return int((await asyncio.to_thread(get, url, document)).get(key) or 0)

    return ask


def numbered(good: Callable[[int], Any], **rules: Any) -> Callable[[int], Any]:
    """What a version says of itself: as `good`, unless it is `bad`, `hangs` or `crashes`."""
    special = {BAD: rules.get("bad"), HANGS: rules.get("hangs"), CRASHES: rules.get("crashes")}
    return lambda version: {**good(version), **(special.get(version) or {})}


def compiler() -> str:
    """Where the C compiler is."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        missing("there is no C compiler")
    return str(found)


def missing(reason: str) -> None:
    """Said loudly, and an error where everything was to be installed."""
    if os.environ.get("CI"):
        pytest.fail(f"not walked: {reason}")
    pytest.skip(f"LOUD: not walked: {reason}")


@pytest.mark.long
async def test_a_c_program_that_follows_current_json(tmp_path: Path) -> None:
    program, port = tmp_path / "follow", free_port()
    source = EXAMPLES / "c" / "follow.c"
    command = [compiler(), "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
    assert len(source.read_text().splitlines()) <= 60
    app = Kept([str(program), str(tmp_path / "models" / NAME), str(port), str(tmp_path)])

    def files(version: int) -> Mapping[str, bytes | None]:
        text = {BAD: b"junk", HANGS: None}.get(version, f"model {version}\n".encode())
        return {"model.txt": text}  # HANGS: a pipe that nobody writes to

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            said = await reader.read()
        writer.close()
        return int(said.split()[1]) if said.startswith(b"model ") else int(said.split()[0] == b"no") - 1

    consumers = settings("c/activate.toml", {"/run/follow": str(tmp_path), "seconds = 10": "seconds = 2"})
    async with app.runs():
        await walk(
            tmp_path, consumers, files, ask, drains=True, crash=app.kill,
        )  # fmt: skip


@pytest.mark.long
async def test_a_nodejs_server(tmp_path: Path) -> None:
    node, port = shutil.which("node"), free_port()
    if node is None:
        missing("there is no Node.js")
    app = Kept([str(node), str(EXAMPLES / "node" / "server.mjs"), str(port)])

    def files(version: int) -> Mapping[str, bytes | None]:
        if version == HANGS:
            return {"model.json": None}
        return {"model.json": json.dumps({} if version == BAD else {"factor": version}).encode()}

    async def ask() -> int:
        said = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/", {"x": 2})
        assert said["y"] == 2 * int(said["version"]), "one version answered as another"
        return int(said["version"])

    consumers = settings("node/activate.toml", {"8090": str(port), "seconds = 10": "seconds = 2"})
    async with app.runs():
        await walk(tmp_path, consumers, files, ask, drains=True, crash=app.kill)


@pytest.mark.long
async def test_a_detector_that_is_restarted(tmp_path: Path) -> None:
    port, model = free_port(), tmp_path / "models" / NAME / "current" / "model.json"
    program = str(EXAMPLES / "detector" / "detector.py")
    arguments = [sys.executable, program, str(model), str(port), str(tmp_path / "own.pid")]
    app = Kept(arguments, pidfile=tmp_path / "pid", log=tmp_path / "log")
    say = numbered(
        lambda version: {"version": version},
        bad={"version": "none"},
        hangs={"hangs": True},
        crashes={"crashes_after": 0.4},
    )
    replaced = {"/run/detector": str(tmp_path), "8090": str(port), "seconds = 30": "seconds = 4"}
    consumers = settings("detector/activate-command.toml", replaced)
    async with app.runs():
        await walk(
            tmp_path,
            consumers,
            lambda version: {"model.json": json.dumps(say(version)).encode()},
            asking(f"http://127.0.0.1:{port}/"),
            drains=False,  # it is down while it starts
        )
