"""A daemon of a former version in a store whose later models have chains of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.former.test_former_daemon import DAEMON, SCRIPTS, _document, _former_environment, former

__all__ = ["former"]


def publish(folder: Path, name: str, content: bytes) -> None:
    (folder / "model.bin").write_bytes(content)
    command = (str(SCRIPTS / "modelsync"), "publish", "store", name, "model.bin", "--keys", "keys", "--json")
    _document(*command, cwd=folder)


def pull(folder: Path, code: Path, name: str) -> subprocess.CompletedProcess[str]:
    """The former daemon's pull of the newest version."""
    origin = (folder / "store").as_uri()
    command = (sys.executable, "-c", DAEMON, "pull", name, "--origin", origin, "--data", "device")
    return subprocess.run(
        (*command, "--trust", "keys/root.json"),
        cwd=folder,
        env=_former_environment(code),
        capture_output=True,
        text=True,
        check=False,
    )
