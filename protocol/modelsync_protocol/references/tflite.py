"""What a TensorFlow Lite file refers to and would execute: buffers outside the flatbuffer, custom and Flex operators.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from modelsync_protocol.references.findings import Findings
from modelsync_protocol.references.flatbuffer import Flatbuffer

IDENTIFIER = b"TFL3"
_CODES, _SUBGRAPHS, _BUFFERS, _EXTERNAL_GROUPS = 1, 2, 4, 8
_GRAPH_OPERATORS = 3
_CUSTOM = 32
_MAX_REPORTED = 64


def read(findings: Findings, path: str, data: memoryview) -> None:
    """Note what the model `path` refers to; FormatError if it is damaged."""
    file = Flatbuffer(data)
    root = file.root
    for number, code in enumerate(file.tables(root, _CODES)):
        custom = file.text(code, 1)
        if (custom or _CUSTOM in (file.scalar(code, 0, 1), file.scalar(code, 3, 4))) and number < _MAX_REPORTED:
            flex = custom.startswith("Flex")
            what = "a TensorFlow operator of the Flex delegate" if flex else "a custom operator of a library"
            findings.execute(path, f"operator {custom[:80]!r}", f"{what} that must be loaded for it.")
    for number, buffer in enumerate(file.tables(root, _BUFFERS)):
        _inside(findings, path, f"buffer {number}", file.scalar(buffer, 1, 8), file.scalar(buffer, 2, 8), len(data))
    for graph in file.tables(root, _SUBGRAPHS):
        for number, operator in enumerate(file.tables(graph, _GRAPH_OPERATORS)):
            offset, size = file.scalar(operator, 9, 8), file.scalar(operator, 10, 8)
            _inside(findings, path, f"the options of operator {number}", offset, size, len(data))
    for number, group in enumerate(file.tables(root, _EXTERNAL_GROUPS)):
        findings.name(path, f"external buffer group {number}", file.text(group, 0), "its data")


def _inside(findings: Findings, path: str, where: str, offset: int, size: int, length: int) -> None:
    # The schema: 0 and 1 mean that the bytes are in the flatbuffer.
    if offset > 1 and offset + size > length:
        findings.refuse(path, where, f"reaches to byte {offset + size} of a file of {length}.")
