"""`make demo` with a Mosquitto in the hub's place: every promise holds there too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rooms import ROOT
from tests.support.mosquitto import mosquitto


@pytest.mark.long
def test_the_demo_keeps_its_promises_on_mosquitto(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "present"):  # skips loudly where there is none
        pass
    environment = {**os.environ, "MODELSYNC_DEMO_CONTROL": "mqtt"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Mosquitto 127.0.0.1" in done.stdout
    report = json.loads((ROOT / "demo-report.json").read_text())
    assert report["promises"] and all(promise["held"] for promise in report["promises"])
