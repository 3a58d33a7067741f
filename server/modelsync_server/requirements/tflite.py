"""What a TensorFlow Lite file requires: the runtime's release, the schema, custom operators.

The converter writes the release that the operators' versions take into the file (`min_runtime_version`, by TensorFlow's
own table in tensorflow/lite/tools/versioning/runtime_version.cc). Schema:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from modelsync_protocol.errors import FormatError
from modelsync_protocol.references.flatbuffer import Flatbuffer
from modelsync_protocol.requirements import terms
from modelsync_server.requirements.tflite_operators import since

IDENTIFIER = b"TFL3"
_SCHEMA, _CODES, _BUFFERS, _METADATA = 0, 1, 4, 6
_CODE_OLD, _CODE_CUSTOM, _CODE_VERSION, _CODE = 0, 1, 2, 3
_CUSTOM = 32
_RUNTIME = "min_runtime_version"
_USUAL_SCHEMA = 3
_RELEASE = re.compile(rb"(\d{1,3}(?:\.\d{1,3}){1,2})\0*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}")
_MOST_NAMES = 8


def read(data: memoryview) -> Iterator[tuple[str, str]]:
    """Yield requirements (key, value); FormatError for what is no TensorFlow Lite model."""
    if bytes(data[4:8]) != IDENTIFIER:
        raise FormatError("the file is no TensorFlow Lite model.")
    file = Flatbuffer(data)
    root = file.root
    schema = file.scalar(root, _SCHEMA, 4)
    if schema > _USUAL_SCHEMA:
        yield terms.TFLITE_SCHEMA, str(schema)
    custom, operators = set[str](), set[tuple[int, int]]()
    for code in file.tables(root, _CODES):
        number = max(file.scalar(code, _CODE_OLD, 1), file.scalar(code, _CODE, 4))
        if number == _CUSTOM and _NAME.fullmatch(name := file.text(code, _CODE_CUSTOM)):
            custom.add(name)
        elif number != _CUSTOM:
            operators.add((number, file.scalar(code, _CODE_VERSION, 4, 1)))
    release = _said(data, file, root) or since(operators)
    if release:
        yield terms.TFLITE_RUNTIME, f">={release}"
    if custom:
        yield terms.TFLITE_CUSTOM, ",".join(islice(sorted(custom), _MOST_NAMES))


def _said(data: memoryview, file: Flatbuffer, root: int) -> str:
    """The release that the converter wrote down; empty if it did not."""
    number = next((file.scalar(m, 1, 4) for m in file.tables(root, _METADATA) if file.text(m, 0) == _RUNTIME), None)
    buffer = None if number is None else next(islice(file.tables(root, _BUFFERS), number, None), None)
    start = None if buffer is None else file.table(buffer, 0)
    if start is None:
        return ""
    length = min(file.number(start, 4), 16)
    found = _RELEASE.fullmatch(bytes(data[start + 4 : start + 4 + length]))
    return found[1].decode() if found else ""
