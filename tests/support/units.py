"""Unit files of systemd, read, and the program that checks them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


class Unit(dict[str, dict[str, list[str]]]):
    """A unit file's sections; a key that stands there several times has several values."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        section: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = self.setdefault(line.strip("[]"), {})
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                section.setdefault(key, []).append(value)


def systemd_analyze() -> str:
    """The program; without it the test is skipped loudly, and fails in CI."""
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "LOUD: the units are not checked: systemd-analyze is missing (Debian package systemd)."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def root_with(folder: Path, root: Path, commands: tuple[str, ...]) -> Path:
    """A root file system with the units of `folder`, the targets that they name, and stubs of the `commands`."""
    shutil.copytree(folder, root / "usr/lib/systemd/system", ignore=shutil.ignore_patterns("*.d", "*.yaml", "*.cron"))
    units = root / "usr/lib/systemd/system"
    for name in ("basic", "sysinit", "shutdown", "network", "multi-user", "timers", "local-fs"):
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    for name in ("system", "-"):
        (units / f"{name}.slice").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    for command in commands:
        path = root / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return root
