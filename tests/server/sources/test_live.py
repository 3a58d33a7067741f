"""Real MLflow and real DVC, each in a virtual environment of its own (long): what transcripts can't show.

An alias's way from `mlflow` to a signed version, by command, watch, webhook and deployment plugin; DVC with a remote.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server import create_store, open_store
from modelsync_server.sources import fetching
from tests.server.sources.record_mlflow import FILES, NEWER, SECRET, seed
from tests.server.sources.test_page import path_of
from tests.support import mlflow_server, venvs
from tests.support.mlflow_server import MlflowServer
from tests.support.tools import needs

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[3]
ALIAS = "mlflow:models:/anomaly@champion"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server.mlflow_server(tmp_path_factory.mktemp("mlflow")) as found:
        seed(found)
        yield found


@pytest.fixture
def shop(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.alias("anomaly", "champion", "1")
    create_store(tmp_path / "store", keys=tmp_path / "keys")
    return tmp_path


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_command_publishes_what_an_alias_names(shop: Path, server: MlflowServer) -> None:
    for version in ("1", "2"):
        server.alias("anomaly", "champion", version)
        command: list[str | Path] = [
            Path(sys.executable).with_name("modelsync"),
            "publish",
            shop / "store",
            "anomaly",
            ALIAS,
        ]
        subprocess.run([*command, "--keys", shop / "keys", "--json"], check=True, capture_output=True)
    found = open_store(shop / "store").show("anomaly")
    assert {entry.path: entry.size for entry in found.entries} == {name: len(data) for name, data in NEWER.items()}
    source = found.metadata["source"]
    assert (source["uri"], source["revision"], source["registry"]) == (ALIAS, "models:/anomaly/2", server.url)


async def test_a_real_webhook_makes_the_watch_look_at_once(shop: Path, server: MlflowServer) -> None:
    store = open_store(shop / "store", keys=shop / "keys")
    await store.aio.publish("anomaly", ALIAS)
    (shop / "keys" / "offline").rename(shop / "safe")
    (shop / "secret").write_text(SECRET)
    watch = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("modelsync"),
        *("watch", ALIAS, str(shop / "store"), "anomaly", "--keys", str(shop / "keys"), "--every", "3600"),
        *("--webhook-secret", str(shop / "secret"), "--memory", str(shop / "memory.json")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert watch.stdout is not None
    async with asyncio.timeout(120):
        url = json.loads(await watch.stdout.readline())["url"]
        event = {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}
        hook = {"name": "modelsync", "url": url, "events": [event], "secret": SECRET}
        await asyncio.to_thread(server.ask, "mlflow/webhooks", hook)
        await asyncio.sleep(1.5)  # longer than MLflow keeps its list of webhooks
        await asyncio.to_thread(server.alias, "anomaly", "champion", "2")
        line = json.loads(await watch.stdout.readline())
    assert (line["version"], line["source"]) == (2, "models:/anomaly/2")
    watch.terminate()
    assert await watch.wait() == 0


def beside_mlflow(shop: Path, *command: str | Path, plugin: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program of MLflow's environment in which our packages are importable too, behind its own."""
    ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (shop / "extra").mkdir(exist_ok=True)
    (shop / "extra" / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(ours)!r})\n")
    if plugin and not (shop / "extra" / "modelsync_mlflow").exists():
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        project: list[str | Path] = ["--no-build-isolation", "--target", shop / "extra", ROOT / "deploy" / "mlflow"]
        subprocess.run([*pip, *project], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(shop / "extra"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(command, env=environment, cwd=shop, capture_output=True, text=True, check=False, timeout=300)


def test_mlflows_own_command_deploys_to_a_store(shop: Path, server: MlflowServer) -> None:
    target, keys = f"modelsync:{shop / 'store'}", ("-C", f"keys={shop / 'keys'}")
    model = ("--name", "anomaly", "-m", "models:/anomaly@champion")

    def deployments(*words: str) -> subprocess.CompletedProcess[str]:
        verb, *more = words
        return beside_mlflow(shop, mlflow_server.program(), "deployments", verb, "-t", target, *more, plugin=True)

    made = deployments("create", *model, *keys)
    assert made.returncode == 0 and "deployment anomaly is created" in made.stdout, made.stderr
    again = deployments("create", *model, *keys)
    assert again.returncode != 0 and "anomaly is deployed already: update it." in again.stderr
    server.alias("anomaly", "champion", "2")
    assert deployments("update", *model, *keys).returncode == 0
    assert sorted(each.version for each in open_store(shop / "store").models()[0].versions) == [1, 2]
    assert "anomaly" in deployments("list").stdout
    shown = deployments("get", "--name", "anomaly").stdout
    assert "version: 2" in shown and "models:/anomaly/2" in shown
    (shop / "input.json").write_text("{}")
    refused = deployments("predict", "--name", "anomaly", "-I", str(shop / "input.json"))
    assert refused.returncode != 0 and "answers no predictions" in refused.stderr
    wrong = deployments("update", *model, "-C", "kyes=x")
    assert wrong.returncode != 0 and "kyes" in wrong.stderr
    local = shop / "local.onnx"
    local.write_bytes(b"a local model")
    assert deployments("update", "--name", "anomaly", "-m", str(local), *keys).returncode == 0
    assert deployments("delete", "--name", "anomaly", *keys).returncode == 0
    assert open_store(shop / "store").models()[0].withdrawn == (1, 2, 3)
    gone = deployments("get", "--name", "anomaly")
    assert gone.returncode != 0 and "not deployed" in gone.stderr


def test_a_registry_without_a_server_is_read_by_mlflows_library(
    shop: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database and a folder: its address may hold a password, so only its kind is signed."""
    fill = """
import mlflow, sys, pathlib
pathlib.Path("model").mkdir(); pathlib.Path("model/model.onnx").write_bytes(b"from a database")
client = mlflow.MlflowClient()
run = client.create_run("0")
client.log_artifacts(run.info.run_id, "model", "m")
client.create_registered_model("offline")
client.create_model_version("offline", run.info.artifact_uri + "/m", run.info.run_id)
client.set_registered_model_alias("offline", "champion", "1")
"""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shop}/own.db")
    python = mlflow_server.program().with_name("python")
    assert beside_mlflow(shop, python, "-c", fill).returncode == 0
    command = "from modelsync_server.cli import main; main()"
    words = ("publish", str(shop / "store"), "offline", "mlflow:models:/offline@champion", "--keys", str(shop / "keys"))
    done = beside_mlflow(shop, python, "-c", command, *words)
    assert done.returncode == 0, done.stderr
    found = open_store(shop / "store").show("offline")
    assert [entry.path for entry in found.entries] == ["model.onnx"]
    source = found.metadata["source"]
    assert (source["registry"], source["revision"]) == ("sqlite", "models:/offline/1")
    done = beside_mlflow(shop, python, "-c", command, *words[:3], "mlflow:models:/nothing@champion", *words[4:])
    assert done.returncode == 2 and "MLflow says" in done.stderr


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which DVC tracks a file and a folder at v1 and v2, whose remote is a folder, without a cache."""
    needs("git")
    program = venvs.installed("dvc", Path(__file__).with_name("dvc.txt")) / "bin"
    monkeypatch.setenv("PATH", f"{program}:{os.environ['PATH']}")
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)

    def run(*words: Any) -> None:
        identity = {"GIT_AUTHOR_NAME": "t", "GIT_COMMITTER_NAME": "t", "EMAIL": "t@example.com"}
        subprocess.run(words, cwd=folder, check=True, capture_output=True, env={**os.environ, **identity})

    run("git", "init", "-q", "-b", "main")
    run("dvc", "init", "-q")
    run("dvc", "remote", "add", "-d", "storage", tmp_path / "storage")
    for version, contents in (("v1", FILES), ("v2", NEWER)):
        (folder / "data" / "model.onnx").write_bytes(contents["model.onnx"])
        (folder / "tree").mkdir(exist_ok=True)
        (folder / "tree" / "labels.txt").write_bytes(version.encode())
        run("dvc", "add", "-q", "data/model.onnx", "tree")
        run("git", "add", "-A")
        run("git", "commit", "-q", "-m", version)
        run("git", "tag", version)
        run("dvc", "push", "-q")
    run("rm", "-rf", ".dvc/cache", "data/model.onnx", "tree")
    return folder


async def test_dvc_brings_what_a_revision_tracks(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (f"dvc:{tracked}//data/model.onnx@v1", f"dvc:file://{tracked}//data/model.onnx@v1"):
        async with fetching.fetched(fetching.parse(address)) as found:
            assert found.path.name == "model.onnx" and found.path.read_bytes() == FILES["model.onnx"]
            assert len(found.document["revision"]) == 40
            assert str(tracked.parent) not in json.dumps(found.document), "a path of this machine is not signed"
    monkeypatch.chdir(tracked)
    async with fetching.fetched(fetching.parse("dvc:data/model.onnx")) as found:
        assert found.path.read_bytes() == NEWER["model.onnx"]
        assert found.document["uri"] == "dvc:data/model.onnx"
        assert str(tracked) not in json.dumps(found.document), "a path of this machine says nothing to others"
    async with fetching.fetched(fetching.parse("dvc:tree@v1")) as found:
        assert files(found.path) == {"labels.txt": b"v1"}
    for line in [*path_of("Two minutes each"), *path_of("DVC")]:
        command, *rest = shlex.split(line)
        program = Path(sys.executable).with_name(command)
        process = await asyncio.create_subprocess_exec(program, *rest, cwd=tracked)
        assert await process.wait() == 0, line
    for wrong, words in (("dvc:data/nothing.onnx@v1", "dvc refuses"), ("dvc:tree@v9", "no branch or tag")):
        with pytest.raises(UsageError, match=words):
            async with fetching.fetched(fetching.parse(wrong)):
                pass
