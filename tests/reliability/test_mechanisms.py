"""Each mechanism that docs/reliability.md names is needed: without it, the test that it names fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.mechanisms import MECHANISMS, Mechanism, listing
from tests.reliability.removal import VARIABLE

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_prints_the_list() -> None:
    assert listing() in (ROOT / "docs" / "reliability.md").read_text(), (
        "write what `python -m tests.reliability.mechanisms` prints into docs/reliability.md"
    )


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda each: each.name)
def test_every_test_that_is_named_exists(mechanism: Mechanism) -> None:
    file, _, function = mechanism.test.partition("::")
    assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mechanism", [each for each in MECHANISMS if each.remove], ids=lambda each: each.name)
def test_without_a_mechanism_its_test_fails(mechanism: Mechanism) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.reliability.removal", mechanism.test],
        cwd=ROOT,
        env={**os.environ, VARIABLE: mechanism.name},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1 and "1 failed" in done.stdout, f"it did not fail:\n{done.stdout}{done.stderr}"
    assert "AssertionError" in done.stdout or "Failed: DID NOT RAISE" in done.stdout or "Error" in done.stdout
