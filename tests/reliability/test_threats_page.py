"""docs/threats.md stays true: tests that it names exist, and what we pin is newer than the fixes that it counts on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threats.md").read_text()
_UNTIL = re.compile(r"([a-z0-9-]+) < ([0-9.]+)")


def _pins() -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for name in ("dev.txt", "install.txt", "device.txt"):
        for found in re.finditer(
            r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([0-9][^ ;\\]*)", (ROOT / "requirements" / name).read_text(), re.M
        ):
            package, version = found[1].lower(), Version(found[2])
            pins[package] = min(version, pins.get(package, version))
    return pins


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_named_test_exists(name: str) -> None:
    assert any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", PAGE))))
def test_a_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_what_is_pinned_has_the_fixes() -> None:
    pins, rows = _pins(), [line.split("|") for line in PAGE.splitlines() if line.startswith(("| CVE", "| GHSA"))]
    assert len(rows) > 25
    checked = set()
    for row in rows:
        for package, fixed in _UNTIL.findall(row[2]):
            if package in pins:
                checked.add(package)
                assert pins[package] >= Version(fixed), row[1]
    assert checked >= {"aiohttp", "cryptography", "onnx", "tuf"}


def test_no_identifier_stands_twice() -> None:
    named = re.findall(r"\b(?:CVE-\d{4}-\d+|GHSA(?:-[0-9a-z]{4}){3})\b", PAGE)
    assert len(named) == len(set(named))
