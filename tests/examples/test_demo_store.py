"""The end-to-end demo with its store in an S3: the same story, and every promise held."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from examples.demo.__main__ import REPORT, ROOT, WORK


@pytest.mark.long
def test_the_demo_runs_on_s3() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, "MODELSYNC_DEMO_STORE": "s3"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3://modelsync-demo/models" in done.stdout and not (WORK / "store").exists()
    assert all(promise["held"] for promise in json.loads(REPORT.read_text())["promises"])


def test_another_kind_of_place_is_told_as_that() -> None:
    environment = {**os.environ, "MODELSYNC_DEMO_STORE": "ftp"}
    script = (
        "from contextlib import ExitStack; from pathlib import Path; from examples.demo.store_place import place\n"
        "try: place(Path('x'), ExitStack())\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "StageError" in done.stdout and "directory or s3" in done.stdout
