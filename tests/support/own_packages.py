"""Packages that one long test needs: installed once, by hash, into a folder below the virtual environment."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


def folder(requirements: Path) -> Path:
    """Where the packages of `requirements` lie, to be put on PYTHONPATH. Skips loudly where they can't be had."""
    made = Path(sys.prefix) / "own" / f"{requirements.stem}-{hash_of(requirements)}"
    if not made.is_dir():
        part = made.with_name(f".{made.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "--target", str(part), "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            missing(f"{requirements.name} can't be installed: {done.stderr.strip().splitlines()[-1]}")
        part.rename(made)
    return made


def hash_of(requirements: Path) -> str:
    """A few digits that change with the file."""
    return hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]


def missing(reason: str) -> None:
    """Said loudly, and an error where everything was to be installed."""
    if os.environ.get("CI"):
        pytest.fail(f"not tested: {reason}")
    pytest.skip(f"LOUD: not tested: {reason}")
