"""The images' sizes: budgets, and the file from which documents are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.images.images import Sizes
from tests.images.system import Architecture

FOLDER = Path(__file__).resolve().parents[1] / "footprint" / "figures"

BUDGETS = {
    "daemon": Sizes(60_000_000, 160_000_000),
    "inference": Sizes(100_000_000, 300_000_000),
    "inference-sklearn": Sizes(160_000_000, 450_000_000),
}
"""Bytes, of the whole image: compressed as a registry ships it (gzip), and unpacked."""


def write(architecture: Architecture, measured: Mapping[str, Sizes]) -> None:
    """Keep them as images-ARCHITECTURE.json: by target, bytes."""
    document = {
        target: {
            "compressed": size.compressed,
            "unpacked": size.unpacked,
            "budget_compressed": BUDGETS[target].compressed,
            "budget_unpacked": BUDGETS[target].unpacked,
        }
        for target, size in measured.items()
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    place = FOLDER / f"images-{architecture.debian}.json"
    place.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def check(measured: Mapping[str, Sizes]) -> None:
    """AssertionError if an image outgrew its budget."""
    for target, size in measured.items():
        budget = BUDGETS[target]
        assert size.compressed <= budget.compressed, f"{target} has {size.compressed} bytes compressed"
        assert size.unpacked <= budget.unpacked, f"{target} has {size.unpacked} bytes unpacked"
