"""What a model in ONNX Runtime's own format (.ort) refers to: outside weights, EPContext nodes, options. No I/O here.

Schema: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/flatbuffers/schema/ort.fbs
"""

from __future__ import annotations

from modelsync_protocol.errors import FormatError
from modelsync_protocol.references.findings import Findings
from modelsync_protocol.references.flatbuffer import Flatbuffer
from modelsync_protocol.references.metadata import check_metadata

IDENTIFIER = b"ORTM"
_SESSION_MODEL = 1
_MODEL_GRAPH, _MODEL_METADATA = 7, 9
_GRAPH_INITIALIZERS, _GRAPH_NODES, _GRAPH_SPARSE = 0, 2, 7
_NODE_DOMAIN, _NODE_OPERATOR, _NODE_ATTRIBUTES = 2, 5, 10
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 6, 7, 11, 12
_TENSOR_OUTSIDE = 6
_NONE = (1 << 64) - 1
_MAX_DEPTH = 32


def read(findings: Findings, path: str, data: memoryview) -> None:
    """Note what the model `path` refers to; FormatError if it is damaged."""
    reader = _Reader(findings, path, data)
    reader.model()


class _Reader:
    def __init__(self, findings: Findings, path: str, data: memoryview) -> None:
        self._findings, self._path, self._file = findings, path, Flatbuffer(data)

    def model(self) -> None:
        file = self._file
        model = file.table(file.root, _SESSION_MODEL)
        if model is None:
            raise FormatError("the .ort file holds no model.")
        for entry in file.tables(model, _MODEL_METADATA):
            text = file.text(entry, 1).encode()
            check_metadata(self._findings, self._path, "metadata", file.text(entry, 0), memoryview(text))
        self._graph(file.table(model, _MODEL_GRAPH), 0)

    def _graph(self, graph: int | None, depth: int) -> None:
        if graph is None:
            return
        if depth > _MAX_DEPTH:
            raise FormatError("the .ort graph is nested too deeply.")
        file = self._file
        for tensor in file.tables(graph, _GRAPH_INITIALIZERS):
            self._tensor(tensor)
        for sparse in file.tables(graph, _GRAPH_SPARSE):
            for slot in (0, 1):
                self._tensor(file.table(sparse, slot))
        for number, node in enumerate(file.tables(graph, _GRAPH_NODES)):
            operator, domain = file.text(node, _NODE_OPERATOR), file.text(node, _NODE_DOMAIN)
            if operator == "EPContext":
                self._findings.refuse(self._path, f"node {number}", "is an EPContext node; publish the ONNX form.")
            elif domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft") and not domain.startswith("com.m"):
                what = "an operator of a library that must be loaded for it."
                self._findings.execute(self._path, f"{domain[:60]}::{operator[:60]}", what)
            for attribute in file.tables(node, _NODE_ATTRIBUTES):
                self._tensor(file.table(attribute, _ATTRIBUTE_TENSOR))
                self._graph(file.table(attribute, _ATTRIBUTE_GRAPH), depth + 1)
                for tensor in file.tables(attribute, _ATTRIBUTE_TENSORS):
                    self._tensor(tensor)
                for inner in file.tables(attribute, _ATTRIBUTE_GRAPHS):
                    self._graph(inner, depth + 1)

    def _tensor(self, tensor: int | None) -> None:
        if tensor is not None and self._file.scalar(tensor, _TENSOR_OUTSIDE, 8, _NONE) != _NONE:
            where = f"tensor {self._file.text(tensor, 0)[:120]!r}"
            self._findings.refuse(self._path, where, "has its data in a file that the model does not name.")
