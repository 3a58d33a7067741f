"""The images' sizes, as `make test-arm` measured and kept them last, against their budgets; for docs/footprint.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.figures import record

KEPT = Path(__file__).parent / "figures"
DAEMON_BUDGET = 60_000_000
"""Bytes of the daemon's image, compressed."""


def test_the_kept_sizes_of_the_images_are_within_their_budgets() -> None:
    files = sorted(KEPT.glob("images-*.json"))
    if not files:
        pytest.skip("LOUD: no sizes of images are kept yet: run `make test-arm`.")
    for path in files:
        architecture = path.stem.removeprefix("images-")
        for target, size in json.loads(path.read_bytes()).items():
            record(
                "images",
                f"{target}, {architecture}",
                compressed_MB=round(size["compressed"] / 1e6, 1),
                budget=size["budget_compressed"] / 1e6,
                unpacked_MB=round(size["unpacked"] / 1e6, 1),
                budget_unpacked=size["budget_unpacked"] / 1e6,
            )
            assert size["compressed"] <= size["budget_compressed"]
            assert size["unpacked"] <= size["budget_unpacked"]
            assert target != "daemon" or size["budget_compressed"] <= DAEMON_BUDGET
