"""docs/inference.md's examples, run as they stand there against a real server: curl, tritonclient, and the library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datadir import DataDir
from tests.support.infer_process import InferProcess
from tests.support.tiny_models import row_scaler, scaler_probe
from tests.support.waiting import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "inference.md"
MARK = "<!-- tested by tests/inference/test_documented_examples.py -->\n"
BLOCKS = re.findall(rf"{MARK}```(sh|python)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
DOCUMENTED = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """Version 42 of the model that the document speaks of: y is X twice."""
    found = DataDir(tmp_path_factory.mktemp("data"))
    found.point("current", found.install(42, {"model.onnx": row_scaler(2)}, scaler_probe(2)), 1)
    return found


@pytest.fixture(scope="module")
def server(data: DataDir) -> Iterator[InferProcess]:
    with InferProcess(data.root, "--log-level", "error") as server:
        wait_until(lambda: _ask(server), "the server to be ready")
        yield server


def _ask(server: InferProcess) -> bool:
    return subprocess.run(["curl", "-fsS", f"{server.url}/v2/health/ready"], capture_output=True).returncode == 0


def run(command: list[str], text: str) -> str:
    ended = subprocess.run(command, input=text, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_document_has_all_kinds_of_examples() -> None:
    kinds = [(kind, word in text) for kind, text in BLOCKS for word in ("curl", "http.aio", "HotModel")]
    assert {("sh", True), ("python", True)} <= set(kinds)
    assert sum(flag for _, flag in kinds) >= 3


@pytest.mark.parametrize("number", [n for n, (kind, _) in enumerate(BLOCKS) if kind == "sh"])
def test_curl_as_documented(server: InferProcess, number: int) -> None:
    if shutil.which("curl") is None:
        assert "CI" not in os.environ, "curl is missing"
        pytest.skip("curl is not installed")
    answers = run(["bash", "-euo", "pipefail"], BLOCKS[number][1].replace(DOCUMENTED, server.address))
    assert '"data":[43.0,80.0,2026.4' in answers
    assert '"data":[2.0,4.0,6.0]' in answers
    assert '"model_version":"42"' in answers
    assert 'nv_inference_request_success{model="anomaly",version="42"} 2' in answers
    wait_until(lambda: _ask(server), "the server to be ready again")


@pytest.mark.parametrize("number", [n for n, (kind, _) in enumerate(BLOCKS) if kind == "python"])
def test_python_as_documented(server: InferProcess, data: DataDir, number: int) -> None:
    text = BLOCKS[number][1].replace(DOCUMENTED, server.address).replace("/var/lib/modelsync", str(data.root))
    assert "42" in run([sys.executable, "-"], text)
