"""A daemon of a former version, its own code, keeps working against a store that this version publishes to.

`code/<version>.tar.xz` is what `git archive COMMIT protocol/modelsync_protocol daemon/modelsync_daemon | xz -9e` makes
of that version's last commit; it runs with the libraries of today.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol import update
from modelsync_protocol.plan import NOTHING
from tests.support import block_pairs, packed_models

CODE = sorted((Path(__file__).parent / "code").glob("*.tar.xz"))
SCRIPTS = Path(sys.executable).parent
DAEMON = "from modelsync_daemon.cli import main; main()"


@pytest.fixture(params=CODE, ids=lambda path: path.name.removesuffix(".tar.xz"))
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder with a former version's packages."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path / "former", filter="data")
    return tmp_path / "former"


def _former_environment(code: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(code / name) for name in ("protocol", "daemon"))}


def _document(*command: str, cwd: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _publish(folder: Path, file: str, content: bytes) -> dict[str, Any]:
    (folder / file).write_bytes(content)
    command = (str(SCRIPTS / "modelsync"), "publish", "store", "packed", file, "--keys", "keys", "--json")
    return _document(*command, cwd=folder)


def _model(folder: Path, device: str, file: str) -> bytes:
    return (folder / device / "models" / "packed" / "current" / file).read_bytes()


def _one_moved(step: float) -> packed_models.Weights:
    """Version 1 with one matrix of four moved: the three others lie in the file as before."""
    return packed_models.weights(5) | {"a": packed_models.weights(5, step)["a"]}


def _in_blocks(step: float) -> bytes:
    return block_pairs.model("q4_0", step, 128)


MODELS: dict[str, Callable[[float], bytes]] = {
    "model.npz": lambda step: packed_models.npz(_one_moved(step) if step else packed_models.weights(5)),
    "model.gguf": _in_blocks,
}
"""Models whose updates need format 2 to be small, by file name: weights moved by so much."""


@pytest.fixture(params=MODELS)
def file(request: pytest.FixtureRequest) -> str:
    """The model's file."""
    name: str = request.param
    return name


@pytest.fixture
def origin(tmp_path: Path, file: str) -> Iterator[str]:
    """The URL of a store with version 1 of the model."""
    subprocess.run([SCRIPTS / "modelsync", "init", "store", "--keys", "keys"], cwd=tmp_path, check=True)
    _publish(tmp_path, file, MODELS[file](0.0))
    server = subprocess.Popen([SCRIPTS / "modelsync", "serve", "store"], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait()


def test_former_code_is_what_runs(former: Path, tmp_path: Path) -> None:
    program = "import modelsync_protocol as p, modelsync_daemon as d; print(p.__file__, d.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=_former_environment(former),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(place).is_relative_to(former) for place in ran.stdout.split())


def test_one_store_serves_a_former_daemon_format_1_and_a_new_one_format_2(
    former: Path, origin: str, file: str, tmp_path: Path
) -> None:
    where = ("pull", "packed", "--origin", origin, "--trust", "keys/root.json", "--json")

    def old(*more: str) -> dict[str, Any]:
        command = (sys.executable, "-c", DAEMON, *where, "--data", "old", *more)
        return _document(*command, cwd=tmp_path, environment=_former_environment(former))

    def new(*more: str) -> dict[str, Any]:
        return _document(str(SCRIPTS / "modelsyncd"), *where, "--data", "new", *more, cwd=tmp_path)

    assert old()["version"] == new()["version"] == 1
    content = MODELS[file](1e-4)
    price = _publish(tmp_path, file, content)["updates"][0]
    objects = {
        path.suffix: path.read_bytes()
        for path in (tmp_path / "store" / "updates").glob("*/*")
        if not path.name.startswith(NOTHING.digest)
    }
    assert {suffix: data[: len(update.MAGIC)] for suffix, data in objects.items()} == {
        ".v1": b"MSU\x01",
        ".v2": b"MSU\x02",
    }
    assert price["bytes"] == len(objects[".v2"]) < price["older"]["bytes"] == len(objects[".v1"])
    first, second = old(), new()
    for pulled, bytes_ in ((first, price["older"]["bytes"]), (second, price["bytes"])):
        assert (pulled["version"], pulled["state"]) == (2, "active")
        assert (pulled["plan"]["kind"], pulled["plan"]["bytes"]) == ("update", bytes_)
    assert _model(tmp_path, "old", file) == _model(tmp_path, "new", file) == content
    # The device's program is updated: it goes on from what the former one built, in the newest format.
    content = MODELS[file](2e-4)
    price = _publish(tmp_path, file, content)["updates"][0]
    taken_over = _document(str(SCRIPTS / "modelsyncd"), *where, "--data", "old", cwd=tmp_path)
    assert taken_over["plan"] == {"kind": "update", "bytes": price["bytes"], "requests": 1}
    assert price["bytes"] < price["older"]["bytes"] and _model(tmp_path, "old", file) == content
