"""docs/integrations/stores.md: its path runs as it stands, with its publisher's policy, and its figures are what is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelsync_server.store import conditional_writes, s3_device_access
from modelsync_server.store.bucket import PART_BYTES, SINGLE_BYTES
from modelsync_server.store.bucket_address import BucketAddress
from tests.support.cloud_servers import private_s3, s3_environment

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "integrations" / "stores.md").read_text()
_SCRIPT = re.compile(r"<!-- tested by tests/server/store/test_stores_page.py -->\n```sh\n(.*?)```", re.DOTALL)


def _policy(whose: str) -> dict[str, Any]:
    found = re.search(rf"<!-- {whose}'s policy -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    policy: dict[str, Any] = json.loads(found[1].replace("BUCKET", "box"))
    return policy


def test_the_devices_policy_is_what_sessions_get() -> None:
    assert _policy("device") == s3_device_access.policy(BucketAddress.parse("s3://box/fleet"))


def test_names_and_sizes_are_the_codes() -> None:
    assert f"`{conditional_writes.NAME}`" in PAGE
    assert f"up to {SINGLE_BYTES >> 20} MiB" in PAGE and f"parts of {PART_BYTES >> 20} MiB" in PAGE


@pytest.mark.long
def test_the_two_minutes_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = "set -eu\ntrap 'kill $(jobs -p)' EXIT\n" + "\n".join(_SCRIPT.findall(PAGE))
    with private_s3("box", _policy("publisher")) as (endpoint, key):
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                **s3_environment(endpoint, key.key, key.secret),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "BUCKET": "box",
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    served = tmp_path / "device" / "models" / "anomaly" / "current" / "model.onnx"
    assert served.read_bytes() == (ROOT / "examples" / "anomaly" / "v2" / "model.onnx").read_bytes()
