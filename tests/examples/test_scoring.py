"""The scoring example, from the publisher to the device: published, pulled, served, swapped under requests, rolled back."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path

import pytest

from examples.scoring import build
from tests.support.infer_process import InferProcess
from tests.support.pulling import Device
from tests.support.shop import Shop
from tests.support.stores import serving_directory
from tests.support.waiting import wait_until

HERE = Path(build.HERE)
PROBES = [json.loads((HERE / f"v{version}.probe.json").read_text())["cases"][0] for version in (1, 2)]
BODY = PROBES[0]["inputs"]["raw_data"]["data"][0].encode()
EXPECTED = [json.loads(probe["outputs"]["result"]["data"][0])["probability"] for probe in PROBES]


def test_what_is_committed_is_what_the_build_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", "")
    for version in (1, 2):
        build.write(version, tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 6
    for path in written:
        if path.suffix != ".json":
            assert (tmp_path / path).read_bytes() == (HERE / path).read_bytes(), path
