"""Stores and data directories of former versions keep working: what they left is in archives beside this file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("*.tar.xz"))
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with `store`, `keys` and `device` as a former version left them; the device is on version 1."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="fully_trusted")
    return tmp_path


def _run(command: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run([SCRIPTS / command, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = subprocess.Popen([SCRIPTS / "modelsync", "serve", "store"], cwd=folder, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait()


def _pull(folder: Path, url: str, *more: str) -> dict[str, Any]:
    arguments = ("pull", "anomaly", "--origin", url, "--data", "device", "--trust", "keys/root.json", "--json", *more)
    document: dict[str, Any] = json.loads(_run("modelsyncd", *arguments, cwd=folder))
    return document


def test_there_is_something_left_by_a_former_version() -> None:
    assert ARCHIVES


def test_a_former_device_and_store_go_on_where_they_were(left: Path) -> None:
    status = json.loads(_run("modelsyncd", "status", "--data", "device", "--json", cwd=left))
    assert status["models"]["anomaly"]["version"] == 1 and status["models"]["anomaly"]["state"] == "active"
    with _served(left) as url:
        pulled = _pull(left, url)
    assert (pulled["version"], pulled["state"], pulled["plan"]["kind"]) == (2, "active", "update")
    back = json.loads(_run("modelsyncd", "rollback", "anomaly", "--data", "device", "--json", cwd=left))
    assert back["version"] == 1, "the version that the former daemon fetched is kept"


def test_a_former_store_takes_new_versions_for_a_former_device(left: Path) -> None:
    _run("modelsync", "verify", "store", cwd=left)
    model = left / "model.onnx"
    shutil.copy(left / "device" / "models" / "anomaly" / "current" / "model.onnx", model)
    model.write_bytes(model.read_bytes() + b"\x72\x03\x0a\x01v")  # metadata_props of ONNX: another model, as valid
    made = json.loads(
        _run("modelsync", "publish", "store", "anomaly", "model.onnx", "--keys", "keys", "--json", cwd=left)
    )
    assert made["version"] == 3 and {update["from"] for update in made["updates"]} == {1, 2}
    _run("modelsync", "verify", "store", cwd=left)
    with _served(left) as url:
        pulled = _pull(left, url)
    assert (pulled["version"], pulled["plan"]["kind"]) == (3, "update")
    served = left / "device" / "models" / "anomaly" / "current" / "model.onnx"
    assert served.read_bytes() == model.read_bytes()
