"""Targets of requirements: how signed metadata spells them, and what reads them from models. Runs nothing by itself."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Final

from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_protocol.requirements import judging, terms
from modelsync_server.requirements import artifact

REQUIRING: Final = ("onnx", "tflite", "pkl", "joblib", "gguf", "xml")
_MAX_BYTES: Final = 1 << 18
"""Of a file: one chunk."""


def required(data: bytes) -> None:
    """What is read of a role's requirements says the same when written again, and is judged without trouble."""
    found = terms.of_version(data[1:].decode("latin-1"), data[0] if data else 1)
    assert terms.decode(terms.encode(found)) == found
    words = {"python": "3.11.2", "packages": {"onnxruntime": "1.20.1", "numpy": "2.0"}, "complete": True}
    judging.judge(found, {"arch": "aarch64", "memory": 1, "disk": 1, "environments": [words]})


def requiring(data: bytes) -> None:
    """Whatever a model file holds, what it requires can be spelled; the first byte is the kind."""
    if 1 < len(data) <= _MAX_BYTES:
        file = RegularFile(f"m.{REQUIRING[data[0] % len(REQUIRING)]}", 0o644, (len(data) - 1,), ("0" * 64,))
        terms.encode(artifact.requirements_of(Manifest((file,)), memoryview(data)[1:]))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"read-requirements": requiring, "requirements": required}


def seeds(files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """(target, input); `files` are (suffix, content) of small model files."""
    spelled = "4:o17i8m3s1.5.2t2.6 memory=512MiB package:numpy>=1.26,<2 arch=aarch64|x86_64;2:o15i8 npu.tops=4;1:"
    for version in (1, 2, 4):
        yield "requirements", bytes([version]) + spelled.encode()
    for suffix, data in files:
        if suffix in REQUIRING:
            yield "read-requirements", bytes([REQUIRING.index(suffix)]) + data
    yield "read-requirements", bytes([REQUIRING.index("xml")]) + b'<net name="m" version="11"/>'
    state = pickle.dumps({"_sklearn_version": "1.5.2", "coef_": [struct.pack("<d", 2.5)]})
    yield "read-requirements", bytes([REQUIRING.index("pkl")]) + state
