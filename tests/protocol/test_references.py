"""What a model refers to is seen as ONNX's own library sees it, and nothing that it sees outside is missed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError, Message

from modelsync_protocol import references
from modelsync_protocol.references import MemoryTree, OutsideError, resolve
from tests.fuzz.mutate import mutants
from tests.support.hostile_artifacts import artifacts, closed


def locations(message: Message) -> Iterator[str]:
    """Every external location below a message, wherever it stands."""
    for _, value in message.ListFields():
        for item in value if hasattr(value, "add") else [value]:
            if isinstance(item, onnx.TensorProto):
                yield from (entry.value for entry in item.external_data if entry.key == "location")
            if isinstance(item, Message):
                yield from locations(item)


def read(data: bytes) -> references.Findings:
    return references.read(MemoryTree({"model.onnx": memoryview(data), "weights.bin": memoryview(bytes(8))}))


def test_no_location_that_the_library_sees_outside_is_missed() -> None:
    kept = [files["model.onnx"] for _, files in artifacts()]
    seen = 0
    for data in [*kept, *mutants(kept, 3000, "references")]:
        try:
            parsed = onnx.ModelProto.FromString(data)
        except DecodeError:
            continue
        outside = [text for text in locations(parsed) if text != "weights.bin"]
        if outside:
            found = read(data)
            seen += 1
            assert found.outside, (outside, found.unreadable, data)
    assert seen > 100


def test_honest_models_are_closed_in_any_order_of_their_fields() -> None:
    files = closed()
    tree = MemoryTree({path: memoryview(data) for path, data in files.items()})
    found = references.read(tree, code=True)
    assert not found.outside and not found.code and not found.unreadable
    assert [item.text for item in found.refers] == ["weights/w.bin"]


@pytest.mark.parametrize(
    ("links", "location", "leads"),
    [
        ({"w": "real.bin"}, "w", "real.bin"),
        ({"d": "deep"}, "d/w.bin", "deep/w.bin"),
        ({"w": "../real.bin"}, "w", None),
        ({"w": "/etc/passwd"}, "w", None),
        ({"a": "b", "b": "a"}, "a", None),
    ],
)
def test_links_are_followed_inside_only(links: dict[str, str], location: str, leads: str | None) -> None:
    entries: dict[str, Any] = {"real.bin": 4, "deep/w.bin": 4, **links}
    if leads is None:
        with pytest.raises(OutsideError):
            resolve(entries, "", location)
    else:
        assert resolve(entries, "", location)[0] == leads


def test_nesting_is_bounded() -> None:
    inner = b""
    for _ in range(3000):
        inner = _key(1, _key(5, _key(6, inner)))
    assert read(_key(7, inner)).outside


def test_any_bytes_are_answered() -> None:
    generator = random.Random(7)
    for size in range(300):
        for name in ("a.onnx", "a.ort", "a.tflite", "a.json", "config.pbtxt", "a.pkl", "a.pt", "a.keras", "a.npy"):
            references.read(MemoryTree({name: memoryview(generator.randbytes(size))}), code=True)


def _key(number: int, payload: bytes) -> bytes:
    size, length = len(payload), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + payload
