"""Builds the wheels of all packages so that the same sources always give the same bytes. Publishes nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.release.versions import FOLDERS, ROOT, ReleaseError

_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", ".*")


def build(out: Path) -> list[Path]:
    """Build every wheel into `out`, which is made; returns them by name. ReleaseError with the builder's words.

    Times come from the last commit, modes and order from hatchling; each wheel holds the licence's text.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="modelsync-wheels-") as work:
        for folder in FOLDERS:
            source = Path(work) / folder
            shutil.copytree(ROOT / folder, source, ignore=_LEFT_BEHIND)
            shutil.copy(ROOT / "LICENSE", source)
            _wheel(source, out)
    wheels = sorted(out.glob("*.whl"))
    if len(wheels) != len(FOLDERS):
        raise ReleaseError(f"{len(FOLDERS)} wheels were expected in {out}, found: {[wheel.name for wheel in wheels]}")
    return wheels


def digests(files: list[Path]) -> dict[str, str]:
    """SHA-256 in hex by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def commit_time() -> str:
    """When the last commit was made, in seconds; hatchling's own constant if this is no checkout."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "1580601600"


def _wheel(source: Path, out: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Of libc the core needs memcpy alone, so that PyPI's oldest tag is true of it wherever it is compiled.
    tag = {"MODELSYNC_CORE_PLATFORM": f"manylinux_2_17_{platform.machine()}"}
    environment = {**tag, **kept, "SOURCE_DATE_EPOCH": commit_time()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{source.name} can't be built: {done.stderr.strip()}")
