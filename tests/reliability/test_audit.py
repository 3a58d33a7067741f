"""The look-up of advisories: a finding fails, an unreachable service is said loudly, and both are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.audit import audit


def _program(folder: Path, script: str) -> str:
    """A stand-in for pip-audit, which is somebody else's."""
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_nothing_found_is_quiet(tmp_path: Path) -> None:
    assert audit(_program(tmp_path, "exit 0"), ["a.txt"]) == (0, "a.txt: no known vulnerability\n")


def test_a_vulnerable_dependency_fails_and_is_named(tmp_path: Path) -> None:
    code, text = audit(_program(tmp_path, "echo 'tuf 6.0 CVE-2026-1'; echo 'Found 1' >&2; exit 1"), ["a.txt"])
    assert code == 1 and "CVE-2026-1" in text


@pytest.mark.parametrize("error", ["requests.exceptions.ConnectionError: x", "pip_audit.ServiceError"])
def test_without_a_network_it_says_loudly_that_nothing_was_looked_up(tmp_path: Path, error: str) -> None:
    code, text = audit(_program(tmp_path, f"echo '{error}' >&2; exit 1"), ["a.txt"])
    assert code == 0 and "AUDIT SKIPPED" in text and "NOT looked up" in text


def test_another_failure_is_no_skip(tmp_path: Path) -> None:
    code, _ = audit(_program(tmp_path, "echo 'unknown option' >&2; exit 2"), ["a.txt"])
    assert code == 1


def test_every_requirement_that_we_install_is_pinned_by_hash() -> None:
    folder = Path(__file__).parents[2] / "requirements"
    for path in folder.glob("*.txt"):
        lines = path.read_text().replace("\\\n", " ").splitlines()
        loose = [line for line in lines if line.strip() and not line.startswith("#") and "--hash=sha256:" not in line]
        assert not loose, f"{path.name}: {loose}"
        assert "://" not in path.read_text(), f"{path.name} names an address"
