"""What an ONNX file requires: its IR version, and the opsets that it imports and uses. Tensors are passed over.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.containers.protobuf import BYTES, VARINT, fields
from modelsync_protocol.errors import FormatError
from modelsync_protocol.requirements import terms

_IR_VERSION, _GRAPH, _OPSET, _FUNCTION = 1, 7, 8, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _NODE_DOMAIN, _NODE_ATTRIBUTE, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 7, 5, 6, 11
_FUNCTION_NODE, _FUNCTION_DOMAIN = 7, 10
_MAX_DEPTH = 32
_MAX_DOMAIN_BYTES = 60
_MAX_VERSION = 10**6
_STANDARD, _ML = ("", "ai.onnx"), "ai.onnx.ml"


def read(data: memoryview) -> Iterator[tuple[str, str]]:
    """Yield requirements (key, value); FormatError for what is no ONNX model."""
    ir, opsets = 0, dict[str, int]()
    used, own, graphs = set[str](), set[str](), 0
    for number, kind, begin, end, value in fields(data, 0, len(data)):
        if number == _IR_VERSION and kind == VARINT:
            ir = value
        elif number == _OPSET and kind == BYTES:
            domain, version = _opset(data, begin, end)
            opsets[domain] = max(version, opsets.get(domain, 0))
        elif number == _GRAPH and kind == BYTES:
            graphs += 1
            _graph(data, begin, end, _GRAPH_NODE, used, 0)
        elif number == _FUNCTION and kind == BYTES:
            own |= {_text(data, f.begin, f.end) for f in fields(data, begin, end) if f.number == _FUNCTION_DOMAIN}
            _graph(data, begin, end, _FUNCTION_NODE, used, 0)
    if not graphs:
        raise FormatError("the file holds no ONNX graph.")
    if 0 < ir < _MAX_VERSION:
        yield terms.ONNX_IR, str(ir)
    for domain, version in sorted(opsets.items()):
        if not 0 < version < _MAX_VERSION:
            continue
        if domain in _STANDARD:
            yield terms.ONNX_OPSET, str(version)
        elif domain == _ML and version == 1:
            continue  # who reads operators of that domain at all, reads the first ones
        elif domain in used - own and _speakable(domain):  # converters import more than they use
            yield f"{terms.ONNX_OPSET}.{domain}", str(version)


def _opset(data: memoryview, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, begin, stop, value in fields(data, start, end):
        if number == _OPSET_DOMAIN and kind == BYTES:
            domain = _text(data, begin, stop)
        elif number == _OPSET_VERSION and kind == VARINT:
            version = value
    return domain, version


def _graph(data: memoryview, start: int, end: int, nodes: int, used: set[str], depth: int) -> None:
    """Add the domains of a graph's nodes, and of those of the graphs within them."""
    if depth > _MAX_DEPTH:
        raise FormatError("the ONNX graph is nested too deeply.")
    for node in fields(data, start, end):
        if node.number != nodes or node.kind != BYTES:
            continue
        for part in fields(data, node.begin, node.end):
            if part.kind == BYTES and part.number == _NODE_DOMAIN:
                used.add(_text(data, part.begin, part.end))
            elif part.kind == BYTES and part.number == _NODE_ATTRIBUTE:
                for inner in fields(data, part.begin, part.end):
                    if inner.kind == BYTES and inner.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        _graph(data, inner.begin, inner.end, _GRAPH_NODE, used, depth + 1)


def _text(data: memoryview, begin: int, end: int) -> str:
    return bytes(data[begin : min(end, begin + _MAX_DOMAIN_BYTES + 1)]).decode(errors="replace")


def _speakable(domain: str) -> bool:
    plain = domain.replace(".", "").replace("_", "").replace("-", "")
    return len(domain) <= _MAX_DOMAIN_BYTES and plain.isascii() and plain.isalnum()
