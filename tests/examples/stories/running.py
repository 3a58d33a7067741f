"""Runs a story as a user does, in a process group of its own, and reads its report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def run_story(name: str, out: Path, *options: str, seconds: float = 260) -> dict[str, Any]:
    """`python -m examples.NAME --out OUT`; its story-NAME.json. Fails with what it printed if a promise broke."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELSYNC_")}
    with (out / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", f"examples.{name}", "--out", str(out), *options],
            cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = (out / "said").read_text()
    assert code == 0, text
    assert "Traceback" not in text, text
    report: dict[str, Any] = json.loads((out / f"story-{name}.json").read_text())
    assert report["ok"] and report["story"] == name
    return report
