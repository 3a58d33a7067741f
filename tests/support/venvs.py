"""Python programs that only long tests need: installed once per machine, outside the checkout, by hash."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync-tests"  # before tests set HOME


def installed(name: str, requirements: Path) -> Path:
    """A virtual environment with exactly `requirements`; it is made if it is not there, which needs the network."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    place = _CACHE / f"{name}-{digest}-{sys.version_info.major}.{sys.version_info.minor}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            command: list[str | Path] = [
                place / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*command, "--require-hashes", "--requirement", requirements], check=True)
            (place / "complete").touch()
    return place
