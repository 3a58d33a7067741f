"""Each ready-made application goes the whole walk against the real thing, with the settings that its page shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import sysconfig
import tomllib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.consumers import configured
from modelsync_daemon.consumers.configured import Configured
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.local.socket_api import SocketApi
from tests.daemon.fakes import NAME, Device
from tests.support import datadir, own_packages, tiny_gguf
from tests.support.addresses import free_port
from tests.support.consumer_walk import BAD, CRASHES, HANGS, walk
from tests.support.own_packages import missing
from tests.support.tiny_models import scaler

HERE = Path(__file__).parent
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


def get(url: str, document: Any = None, seconds: float = 5) -> Any:
    """One request; OSError if it fails."""
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=seconds) as answer:
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


@pytest.mark.long
async def test_a_c_program_that_follows_current_json(tmp_path: Path) -> None:
    program, port = tmp_path / "follow", free_port()
    source = EXAMPLES / "c" / "follow.c"
    command = [compiler(), "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    compiling = await asyncio.create_subprocess_exec(*command)
    assert await compiling.wait() == 0
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


@pytest.mark.long
async def test_a_flask_application_that_embeds_hotmodel(tmp_path: Path) -> None:
    packages, port = own_packages.folder(HERE / "flask.txt"), free_port()
    command = [sys.executable, "-m", "flask", "--app", str(EXAMPLES / "flask" / "app.py"), "run", "--port", str(port)]
    environment = {"MODELSYNC_DATA": str(tmp_path), "PYTHONPATH": str(packages)}
    app = Kept(command, environment, log=tmp_path / "log")

    def model(version: int) -> bytes:
        return b"junk" if version == BAD else scaler(version)

    async def ask() -> int:
        said = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/predict", {"X": [[1, 1, 1]]})
        assert {value for row in said["y"] for value in row} == {said["version"]}, "one version answered as another"
        return int(said["version"])

    def install(name: str, version: int) -> Reference:
        made = datadir.DataDir(tmp_path, name).install(version, {"model.onnx": model(version)})
        return Reference(made.version, made.digest)

    @contextlib.asynccontextmanager
    async def started(pi: Device) -> AsyncIterator[None]:
        pi.preparer.install = install  # type: ignore[method-assign]  # with manifests that HotModel reads
        api = SocketApi(pi.resident.commands, pi.resident.processes, pi.data.socket)
        await api.start()
        try:
            await pi.until(lambda: pi.resident.processes.registered(NAME))
            yield
        finally:
            await api.stop()

    async with app.runs():
        await walk(
            tmp_path,
            None,
            lambda version: {},
            ask,
            drains=True,
            hangs=False,
            crash=app.kill,
            crash_seconds=5,
            started=started,
        )


@pytest.mark.long
async def test_triton(tmp_path: Path) -> None:
    packages, port, repository = own_packages.folder(HERE / "triton.txt"), free_port(), tmp_path / "repository"
    home = packages / "pytriton" / "tritonserver"
    stub = home / f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
    (repository / "detector").mkdir(parents=True)
    shutil.copy(EXAMPLES / "triton/repository/detector/config.pbtxt", repository / "detector")
    (repository / "detector" / "1").symlink_to(tmp_path / "models" / NAME / "current")
    backends = tmp_path / "backends"
    shutil.copytree(home / "backends", backends)
    shutil.copy(stub, backends / "python")
    for program in (home / "bin" / "tritonserver", backends / "python" / stub.name):
        program.chmod(0o755)
    command = [str(home / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += ["--model-control-mode=explicit", "--load-model=detector", "--exit-on-error=false"]
    command += [f"--backend-directory={backends}", "--http-address=127.0.0.1", f"--http-port={port}"]
    command += ["--allow-grpc=false", "--allow-metrics=false"]
    environment = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PYTHONPATH": sysconfig.get_path("platlib"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    triton = Kept(command, environment, log=tmp_path / "log")
    say = numbered(
        lambda version: {"factor": version, "version": version},
        bad={"factor": "none"},
        hangs={"load_seconds": 8},
    )
    model = (HERE / "triton_model.py").read_bytes()

    async def ask() -> int:
        x = {"name": "X", "shape": [1], "datatype": "FP32", "data": [1]}
        url = f"http://127.0.0.1:{port}/v2/models/detector/infer"
        try:
            said = str(await asyncio.to_thread(get, url, {"inputs": [x]}, 30))
        except urllib.error.HTTPError as error:
            said = error.read().decode()
        found = re.search(r"y=(\d+) version=(\d+)", said)
        if found is None:
            raise ValueError(said)
        assert found[1] == found[2], "one version answered as another"
        return int(found[2])

    replaced = {"8000": str(port), "seconds = 60": "seconds = 4"}
    async with triton.runs():
        await walk(
            tmp_path,
            settings("triton/activate.toml", replaced),
            lambda version: {"model.py": model, "factor.json": json.dumps(say(version)).encode()},
            ask,
            drains=True,
            crash=triton.kill,
            crash_seconds=3,
            late=True,  # Triton gives up no load: what comes through late serves until it is told again
        )


@pytest.mark.long
async def test_llama_cpp_behind_its_front(tmp_path: Path) -> None:
    packages, port, control = own_packages.folder(HERE / "llama.txt"), free_port(), tmp_path / "control"
    command = [sys.executable, str(EXAMPLES / "llama" / "front.py"), str(port), str(control)]
    command += [sys.executable, str(HERE / "llama_server.py"), "{model}", "{port}"]
    environment = {"PYTHONPATH": str(packages), "DRAIN_SECONDS": "10", "START_SECONDS": "5"}
    front = Kept(command, environment, log=tmp_path / "log")

    def files(version: int) -> Mapping[str, bytes | None]:
        model = tiny_gguf.write(tmp_path / "made.gguf", version).read_bytes()
        if version == BAD:
            return {"model.gguf": model[:1000]}
        return {"model.gguf": model, **{HANGS: {"hangs": b""}, CRASHES: {"crashes": b""}}.get(version, {})}

    async def ask() -> int:
        said = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/completion", {"prompt": "7", "n_predict": 1}, 60)
        return int(said["content"]) // 7

    consumers = settings("llama/activate.toml", {"/run/llama": str(tmp_path)})
    async with front.runs():
        await walk(tmp_path, consumers, files, ask, drains=True)
