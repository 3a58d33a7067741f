"""docs/integrations/sources.md: its two-minute paths run as they stand, against servers of this machine."""

from __future__ import annotations

import asyncio
import re
import shlex
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from modelsync_server.sources import fetching
from tests.server.sources import test_azure_ml as azure_tests
from tests.server.sources import test_git as git_tests
from tests.server.sources import test_hugging_face as hub_tests
from tests.server.sources import test_oci as oci_tests
from tests.server.sources.record_mlflow import FOLDER
from tests.support.modelsync_command import Run, runner
from tests.support.oci_registry import WEIGHT, artifact, descriptor
from tests.support.source_server import SourceServer

Go: TypeAlias = Callable[[str, dict[str, str]], str]
PAGE = Path(__file__).resolve().parents[3] / "docs" / "integrations" / "sources.md"
azure = azure_tests.server
"""The fixture: a workspace and its container."""


def path_of(title: str) -> list[str]:
    """The lines of the first shell block below a heading."""
    _, heading, below = PAGE.read_text().partition(f"# {title}\n")
    block = below.partition("```sh\n")[2].partition("```")[0]
    assert heading and block, title
    return block.splitlines()


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Go:
    """Runs a path, with addresses replaced by those of this machine; what its last command prints."""
    run: Run = runner(monkeypatch, capsys)

    def lines(title: str, places: dict[str, str]) -> str:
        said = ""
        for line in [*path_of("Two minutes each"), *path_of(title)]:
            for name, place in places.items():
                line = line.replace(name, place)
            command, *words = shlex.split(line)
            if command == "export":
                monkeypatch.setenv(*words[0].split("=", 1))
                continue
            assert command == "modelsync"
            done = run(*words)
            assert done.code == 0, done.err
            said = done.out
        return said

    monkeypatch.chdir(tmp_path)
    return lines


async def _in_thread(go: Go, title: str, places: dict[str, str]) -> str:
    return await asyncio.to_thread(go, title, places)


@pytest.fixture
async def server() -> AsyncIterator[SourceServer]:
    async with SourceServer() as found:
        yield found


async def test_mlflow(go: Go, server: SourceServer) -> None:
    server.load(FOLDER / "mlflow-1.json")
    said = await _in_thread(go, "MLflow", {"https://mlflow.example": server.url})
    assert "fetched from" in said and "models:/anomaly/1" in said


async def test_hugging_face(go: Go, server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_tests.hub(server, {"model.onnx": hub_tests.MODEL})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert "small version 1" in await _in_thread(go, "Hugging Face", {})


async def test_an_oci_registry(go: Go, server: SourceServer) -> None:
    manifest = artifact([descriptor(f"{WEIGHT}.raw", oci_tests.MODEL, path="model.onnx")])
    oci_tests.served(server, manifest, oci_tests.MODEL)
    places = {"registry.example": f"127.0.0.1:{server.port}"}
    assert "packed version 1" in await _in_thread(go, "An OCI registry", places)


async def test_azure_ml(go: Go, azure: SourceServer) -> None:
    assert azure.port
    assert "azure version 1" in await _in_thread(go, "Azure ML", {})


def test_git(go: Go, tmp_path: Path) -> None:
    place = git_tests.repository(tmp_path / "models.git", {"a/model.onnx": git_tests.MODEL})
    places = {"https://git.example/acme/models.git": f"file://{place}"}
    assert "cloned version 1" in go("git and git-lfs", places)


def test_a_zip_file(go: Go, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("model.onnx", git_tests.MODEL)
        archive.writestr("labels.txt", "bolt\n")
    assert "parts version 1" in go("A zip file", {})


def test_every_kind_of_the_table_is_one_and_every_kind_is_in_it() -> None:
    table = PAGE.read_text().partition("## Two minutes each")[0]
    rows = re.findall(r"^\| [^|]+ \| `(\w+)[:+]", table, re.MULTILINE)
    assert set(rows) == set(fetching._KINDS)
