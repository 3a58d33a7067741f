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


_CHANGE = 0.01
"""Share of a figure that differs from build to build of the same."""


def write(architecture: Architecture, measured: Mapping[str, Sizes]) -> None:
    """Keep them as images-ARCHITECTURE.json: by target, bytes. A file that says about the same stays as it is."""
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
    if place.exists() and _about_the_same(json.loads(place.read_text(encoding="utf-8")), document):
        return
    place.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _about_the_same(kept: Mapping[str, Mapping[str, int]], new: Mapping[str, Mapping[str, int]]) -> bool:
    return kept.keys() == new.keys() and all(
        kept[target].keys() == new[target].keys()
        and all(abs(kept[target][key] - value) <= _CHANGE * value for key, value in new[target].items())
        for target in new
    )


def check(measured: Mapping[str, Sizes]) -> None:
    """AssertionError if an image outgrew its budget."""
    for target, size in measured.items():
        budget = BUDGETS[target]
        assert size.compressed <= budget.compressed, f"{target} has {size.compressed} bytes compressed"
        assert size.unpacked <= budget.unpacked, f"{target} has {size.unpacked} bytes unpacked"
