"""Golden vectors of encoding 7 decode bit by bit, on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol import codecs

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS: list[tuple[str, dict[str, Any]]] = [
    (folder, vector)
    for folder in ("trees", "boosted")
    for vector in json.loads((GOLDEN / folder / "vectors.json").read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("folder", "vector"), VECTORS, ids=[vector["name"] for _, vector in VECTORS])
def test_a_golden_vector_decodes(folder: str, vector: dict[str, Any]) -> None:
    payload, base = ((GOLDEN / folder / f"{vector['name']}.{part}").read_bytes() for part in ("payload", "base"))
    data = codecs.decode(codecs.TREE_COLUMNS, payload, vector["length"], base, b"", b"")
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]
