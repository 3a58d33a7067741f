"""Golden vectors of encodings 3, 4, 5 and 8 decode bit by bit, on every machine (also run on 32-bit Arm)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol import codecs
from modelsync_protocol.errors import FormatError

GOLDEN = Path(__file__).parents[1] / "golden" / "codecs"
VECTORS: list[dict[str, Any]] = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))
NAMES = [vector["name"] for vector in VECTORS]


def part(vector: dict[str, Any], name: str) -> bytes:
    path = GOLDEN / f"{vector['name']}.{name}"
    return path.read_bytes() if path.exists() else b""


def decoded(vector: dict[str, Any], payload: bytes, tables: bytes) -> bytes:
    return bytes(codecs.decode(vector["encoding"], payload, vector["length"], part(vector, "base"), b"", tables))


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_a_golden_vector_decodes(vector: dict[str, Any]) -> None:
    data = decoded(vector, part(vector, "payload"), part(vector, "tables"))
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]


def test_each_encoding_and_element_type_has_a_vector() -> None:
    assert {vector["encoding"] for vector in VECTORS} >= {3, 4, 5, 8}
    for kind in ("f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64"):
        assert any(name.endswith(f"-{kind}") for name in NAMES)


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_damage_is_refused_or_bounded(vector: dict[str, Any]) -> None:
    payload, tables = part(vector, "payload"), part(vector, "tables")
    for data, other in ((payload, tables), (tables, payload)):
        for place in range(0, len(data), max(1, len(data) // 97)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << (place % 8)
            pair = (bytes(damaged), other) if data is payload else (other, bytes(damaged))
            try:
                assert len(decoded(vector, *pair)) == vector["length"]
            except FormatError:
                continue


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_a_truncated_vector_is_refused(vector: dict[str, Any]) -> None:
    payload = part(vector, "payload")
    for size in range(0, len(payload), max(1, len(payload) // 61)):
        with pytest.raises(FormatError):
            decoded(vector, payload[:size], part(vector, "tables"))
