"""Tools of the system that a test can't do without: skipped loudly on a developer's machine, a failure in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(*tools: str) -> None:
    """Skip the test unless every tool is installed; where CI is set, which installs them, fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        text = f"LOUD: {', '.join(missing)} is not installed, so this promise is not tested here"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


def needs_root() -> None:
    """Skip the test unless it may mount file systems; where CI is set, fail."""
    if os.geteuid() != 0:
        text = "LOUD: file systems can't be mounted here, so this promise is not tested (be root)"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
