"""The two-minute path of docs/integrations/control.md, as it stands there, with a real Mosquitto."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rooms import ROOT
from tests.support.addresses import free_port
from tests.support.mosquitto import mosquitto

PAGE = ROOT / "docs" / "integrations" / "control.md"


def _script() -> str:
    found = re.search(r"## Two minutes with Mosquitto\n.*?```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, "the page has no two-minute path"
    return found[1]


@pytest.mark.long
def test_the_page_is_true(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "present"):  # skips loudly where there is none
        pass
    broker, origin = free_port(), free_port()
    script = _script().replace("1883", str(broker)).replace("8080", str(origin))
    installs, rest = script.split("\n", 1)
    assert installs.startswith("apt-get install mosquitto")
    # In the background they end with this test's process group.
    rest = rest.replace("mosquitto -d -c mosquitto.conf", "mosquitto -c mosquitto.conf 2> mosquitto.log & sleep 1")
    (tmp_path / "page.sh").write_text(f"set -e\n{rest}\n" + _WAIT)
    shutil.copy(ROOT / "examples" / "anomaly" / "v1" / "model.onnx", tmp_path / "model.onnx")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            ["bash", "page.sh"], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = running.wait(timeout=240)
        finally:
            os.killpg(running.pid, signal.SIGTERM)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert re.search(r"^pi +Connected +anomaly 1 active$", said, re.MULTILINE), said
    assert (tmp_path / "device" / "models" / "anomaly").is_dir()


_WAIT = """
for _ in $(seq 40); do
  modelsync twin list > found
  if grep -q "anomaly 1 active" found; then cat found; exit 0; fi
  sleep 0.5
done
cat found; exit 9
"""
