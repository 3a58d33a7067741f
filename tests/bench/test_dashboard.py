"""The bench of the operator's page, with a small fleet: what it counts is bounded, whatever the fleet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.figures import ROOT


@pytest.mark.long
def test_a_view_asks_little_and_what_is_kept_costs_nothing() -> None:
    if shutil.which("chromium") is None:
        pytest.skip("NOT TESTED: the bench of the page. chromium is missing (Debian: apt install chromium)")
    command = [sys.executable, "-m", "bench.dashboard", "--devices", "1500", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(run.stdout)
    assert found["fleet"]["rows"] < 150 and found["fleet"]["queries"] <= 12
    assert found["devices"]["rows"] <= 50 and found["device"]["rows"] == 0
    assert {found[name]["queries"] for name in ("fleet_again", "devices_again", "thousand_again")} == {0}
