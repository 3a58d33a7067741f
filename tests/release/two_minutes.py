"""Goes the README's two-minute path, and runs docs/api.md's Python, with what is installed in a clean environment."""

from __future__ import annotations

from pathlib import Path

from deploy.release.versions import ROOT, ReleaseError
from tests.release.installed import Environment
from tests.support import readme

_MODEL = ROOT / "examples" / "anomaly" / "v1" / "model.onnx"
_STOP = "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"


def walk(environment: Environment, work: Path) -> None:
    """Run it in the new folder `work`. ReleaseError: a command failed, or the model did not arrive whole."""
    work.mkdir()
    (work / "examples").symlink_to(ROOT / "examples")
    environment.run(["bash", "-c", _STOP + readme.python_after_two_minutes()], work)
    arrived = work / "device" / "models" / "anomaly" / "current" / "model.onnx"
    if arrived.read_bytes() != _MODEL.read_bytes():
        raise ReleaseError("the model on the device is not the one that was published")
