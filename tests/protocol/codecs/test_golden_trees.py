"""Golden vectors of encoding 7 decode bit by bit, on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol import codecs

GOLDEN = Path(__file__).parents[1] / "golden" / "trees"
VECTORS: list[dict[str, Any]] = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_golden_vector_decodes(vector: dict[str, Any]) -> None:
    payload, base = ((GOLDEN / f"{vector['name']}.{part}").read_bytes() for part in ("payload", "base"))
    data = codecs.decode(codecs.TREE_COLUMNS, payload, vector["length"], base, b"", b"")
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]
