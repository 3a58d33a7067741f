"""Golden vectors: objects of every released format version, which every later program must read bit by bit.

The checks themselves are in golden/check.py, for `make test-arm` runs them on 32-bit Arm too.
"""

from __future__ import annotations

import runpy

import pytest

from modelsync_protocol import offers
from tests.protocol.golden import check


@pytest.mark.parametrize("vectors", [pytest.param(vectors, id=name) for name, vectors in check.checks()])
def test_golden_vectors_decode_bit_by_bit(vectors: check.Check) -> None:
    vectors()


def test_every_folder_of_vectors_is_checked() -> None:
    folders = {path.name for path in check.GOLDEN.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(check.SEALS)


def test_the_script_still_makes_what_readers_of_v1_understand() -> None:
    """Its zstd may choose other bytes; what they stand for is the same."""
    made = runpy.run_path(str(check.GOLDEN / "make.py"))
    assert made["target"]().encoded == check.read("target.manifest.json")
    assert made["TARGET_STREAM"] == check.read("target.stream")
    assert offers.decode(offers.encode(made["OFFERS"])) == offers.decode(check.read("offers"))
