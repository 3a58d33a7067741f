"""Files of npm packages that tests need: installed once per machine, outside the checkout, at a fixed version."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def installed(package: str, version: str, file: str) -> Path:
    """`file` below the package's folder. Without npm the test fails in CI and is skipped elsewhere, loudly."""
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "modelsync-tests" / f"{package}-{version}"
    found = cache / "node_modules" / package / file
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            npm = shutil.which("npm")
            if npm is None:
                reason = (
                    f"NOT TESTED: what needs {package}. npm is missing; install nodejs and npm (Debian: apt install)"
                )
                (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
            arguments = [
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
                f"{package}@{version}",
            ]
            subprocess.run([npm, *arguments], cwd=cache, check=True, timeout=300)
    return found
