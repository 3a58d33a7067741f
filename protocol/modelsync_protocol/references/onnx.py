"""What an ONNX file refers to and would execute: external data, EPContext nodes, operators, metadata. Executes nothing.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3. What is not listed here and could hold a
message is a reason to refuse: a newer runtime may follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from modelsync_protocol import caps
from modelsync_protocol.containers.protobuf import BYTES, VARINT, varint
from modelsync_protocol.errors import FormatError
from modelsync_protocol.references.findings import Findings
from modelsync_protocol.references.metadata import check_metadata
from modelsync_protocol.references.protobuf_spans import GROUP, Spans, merged

_MAX_DEPTH = 32
_MAX_TEXT_BYTES = 4096
_MAX_ENTRIES = 64
_MAX_RANK = 32
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
"""Element type → bits of an element (onnx.proto3, TensorProto.DataType)."""

# Fields of each message that are known, whether they are followed or hold plain values.
_MODEL = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})
_FUNCTION = frozenset({1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14})
_NODE = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
_ATTRIBUTE = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23})
_TENSOR = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16})
_SPARSE = frozenset({1, 2, 3})
_TRAINING = frozenset({1, 2, 3, 4})
_ENTRY = frozenset({1, 2})

_BUILT_IN = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"}
    | {"com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc", "com.microsoft.dml"}
)
_CODE_OPERATORS = frozenset({"PythonOp", "PythonOpGrad", "PyOp", "ATen", "ATenGrad", "TritonOp", "ExternOp"})


@dataclass(slots=True)
class _Part:
    """A message taken apart: the pieces of each field that holds bytes, and the last number of each other."""

    pieces: dict[int, Spans] = field(default_factory=dict)
    numbers: dict[int, list[int]] = field(default_factory=dict)


def read(findings: Findings, path: str, data: memoryview) -> None:
    """Note what the ONNX model `path` refers to; FormatError if it is none or damaged. What was seen is noted."""
    _Reader(findings, path, data).model()


class _Reader:
    def __init__(self, findings: Findings, path: str, data: memoryview) -> None:
        self._findings, self._path, self._data = findings, path, data
        self._strange: list[tuple[str, int]] = []
        self._domains: set[str] = set()
        self._seen: set[tuple[str, str]] = set()

    def model(self) -> None:
        part = self._take([(0, len(self._data))], _MODEL, "the model")
        functions = part.pieces.get(25, [])
        for span in functions:
            known = self._take([span], _FUNCTION, "a function")
            self._domains.add(self._text(known.pieces.get(10, [])))
        self._graph(part.pieces.get(7, []), "", 0)
        for span in functions:
            self._function(span)
        for number, span in enumerate(part.pieces.get(20, []), 1):
            training = self._take([span], _TRAINING, "training info")
            for key in (1, 2):
                if key in training.pieces:
                    self._graph(training.pieces[key], f"training {number}", 0)
        self._metadata(part.pieces.get(14, []), "metadata")
        if 7 not in part.pieces:
            raise FormatError("the file holds no ONNX graph.")
        for where, number in self._strange:  # only now: in a damaged file anything is strange
            self._findings.refuse(self._path, where, f"holds a field {number} that is not known here.")

    def _take(self, spans: Spans, known: frozenset[int], where: str) -> _Part:
        part = _Part()
        for number, kind, begin, end, value in merged(self._data, spans):
            if number not in known and kind in (BYTES, GROUP):
                if len(self._strange) < 16:
                    self._strange.append((where, number))
            elif kind == BYTES:
                part.pieces.setdefault(number, []).append((begin, end))
            elif kind == VARINT:
                part.numbers.setdefault(number, []).append(value)
        return part

    def _text(self, spans: Spans) -> str:
        """A string field: the last one wins."""
        return self._string(spans[-1]) if spans else ""

    def _string(self, span: tuple[int, int]) -> str:
        begin, end = span
        return bytes(self._data[begin : min(end, begin + _MAX_TEXT_BYTES)]).decode(errors="replace")

    def _function(self, span: tuple[int, int]) -> None:
        part = self._take([span], _FUNCTION, "a function")
        where = f"function {self._text(part.pieces.get(1, []))[:80]!r}"
        for number, node in enumerate(part.pieces.get(7, []), 1):
            self._node(node, f"{where}/{number}", 0)
        for attribute in part.pieces.get(11, []):
            self._attribute(attribute, where, 0)
        self._metadata(part.pieces.get(14, []), where)

    def _graph(self, spans: Spans, where: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self._findings.refuse(self._path, where[:200], "is nested deeper than is looked into.")
            return
        part = self._take(spans, _GRAPH, where or "the graph")
        for span in part.pieces.get(5, []):
            self._tensor([span], where)
        for span in part.pieces.get(15, []):
            self._sparse([span], where)
        for number, span in enumerate(part.pieces.get(1, []), 1):
            self._node(span, f"{where}/{number}"[-200:], depth)
        self._metadata(part.pieces.get(16, []), where)

    def _node(self, span: tuple[int, int], where: str, depth: int) -> None:
        part = self._take([span], _NODE, f"node {where}")
        operator, domain = (self._text(part.pieces.get(number, [])) for number in (4, 7))
        context = operator == "EPContext"
        values: dict[str, _Part] = {}
        for attribute in part.pieces.get(5, []):
            name, found = self._attribute(attribute, f"node {where}", depth)
            if context:
                _merge(values.setdefault(name, _Part()), found)
        if context:
            self._context(values, f"node {where}")
        elif operator in _CODE_OPERATORS:
            self._execute(domain, operator, "an operator that runs code of its author")
        elif domain not in _BUILT_IN and domain not in self._domains:
            self._execute(domain, operator, "an operator of a library that must be loaded for it")
        self._metadata(part.pieces.get(9, []), f"node {where}")

    def _execute(self, domain: str, operator: str, what: str) -> None:
        if (domain, operator) not in self._seen and len(self._seen) < 1000:
            self._seen.add((domain, operator))
            self._findings.execute(self._path, f"{domain[:60]}::{operator[:60]}", f"{what}.")

    def _context(self, values: dict[str, _Part], where: str) -> None:
        """A part of the graph that was compiled for an accelerator; it may lie in a file, and name another."""
        self._execute("com.microsoft", "EPContext", "compiled code for an accelerator")
        cache, mode = values.get("ep_cache_context", _Part()), values.get("embed_mode", _Part())
        for value in (cache, mode, values.get("onnx_model_filename", _Part())):
            if 21 in value.pieces:
                self._findings.refuse(self._path, where, "takes a file name from the caller of its function.")
        if any(number != 1 for number in mode.numbers.get(3, [])):
            for span in cache.pieces.get(4, []) or [(0, 0)]:
                self._findings.name(self._path, where, self._string(span), "ep_cache_context")
        for span in values.get("onnx_model_filename", _Part()).pieces.get(4, []):
            self._findings.name(self._path, where, self._string(span), "onnx_model_filename")

    def _attribute(self, span: tuple[int, int], where: str, depth: int) -> tuple[str, _Part]:
        part = self._take([span], _ATTRIBUTE, f"an attribute of {where}")
        name = self._text(part.pieces.get(1, []))
        inner = f"{where}.{name[:60]}"
        if 5 in part.pieces:
            self._tensor(part.pieces[5], inner)
        if 6 in part.pieces:
            self._graph(part.pieces[6], inner, depth + 1)
        if 22 in part.pieces:
            self._sparse(part.pieces[22], inner)
        for one in part.pieces.get(10, []):
            self._tensor([one], inner)
        for one in part.pieces.get(11, []):
            self._graph([one], inner, depth + 1)
        for one in part.pieces.get(23, []):
            self._sparse([one], inner)
        return name, part

    def _sparse(self, spans: Spans, where: str) -> None:
        part = self._take(spans, _SPARSE, f"a sparse tensor of {where or 'the graph'}")
        for number in (1, 2):
            if number in part.pieces:
                self._tensor(part.pieces[number], where)

    def _tensor(self, spans: Spans, where: str) -> None:
        part = self._take(spans, _TENSOR, f"a tensor of {where or 'the graph'}")
        external = part.pieces.get(13, [])
        if not external:
            if any(value & 0xFFFFFFFF == 1 for value in part.numbers.get(14, [])):
                self._findings.refuse(self._path, where or "a tensor", "has external data that names no file.")
            return
        name = self._text(part.pieces.get(8, []))
        place = f"tensor {name[:120]!r}{f' of {where}' if where else ''}"
        if len(external) > _MAX_ENTRIES:
            self._findings.refuse(self._path, place, f"has more than {_MAX_ENTRIES} external data entries.")
            return
        found: dict[str, list[str]] = {}
        for span in external:
            for key, value in self._pairs(span):
                found.setdefault(key, []).append(value)
        self._external(place, found, _nbytes(part, self._data))

    def _external(self, place: str, found: dict[str, list[str]], nbytes: int) -> None:
        for key in found.keys() - {"location", "offset", "length", "checksum"}:
            self._findings.refuse(self._path, place, f"has external data with a key {key[:60]!r}, not known here.")
        numbers: dict[str, int] = {"offset": 0, "length": nbytes}
        for key in ("offset", "length"):
            for text in found.get(key, []):
                if not (text.isascii() and text.isdigit() and len(text) < 19):
                    self._findings.refuse(self._path, place, f"has the {key} {text[:40]!r}, which is no number.")
                    return
                numbers[key] = max(numbers[key], int(text))
        if "location" not in found:
            self._findings.refuse(self._path, place, "has external data that names no file.")
        # Whichever of repeated keys a runtime takes: none may lead out.
        for location in found.get("location", []):
            self._findings.name(self._path, place, location, "its data", numbers["offset"] + numbers["length"])

    def _pairs(self, span: tuple[int, int]) -> Iterator[tuple[str, str]]:
        """Every key of a StringStringEntryProto with every value: one of each, unless somebody plays tricks."""
        part = self._take([span], _ENTRY, "an entry")
        keys, values = part.pieces.get(1, []), part.pieces.get(2, [])
        if len(keys) * max(1, len(values)) > _MAX_ENTRIES:
            self._findings.refuse(self._path, "an entry", "repeats its key or value too often.")
            return
        for key in keys:
            for value in values or [(0, 0)]:
                yield self._string(key), self._string(value)

    def _metadata(self, spans: Spans, where: str) -> None:
        for span in spans[: caps.MAX_TENSORS]:
            part = self._take([span], _ENTRY, "metadata")
            for key in part.pieces.get(1, []):
                for begin, end in part.pieces.get(2, [])[:_MAX_ENTRIES]:
                    check_metadata(self._findings, self._path, where, self._string(key), self._data[begin:end])


def _merge(into: _Part, more: _Part) -> None:
    for number, spans in more.pieces.items():
        into.pieces.setdefault(number, []).extend(spans)
    for number, values in more.numbers.items():
        into.numbers.setdefault(number, []).extend(values)


def _nbytes(part: _Part, data: memoryview) -> int:
    """Bytes that the tensor's shape and type claim; 0 if they are not known."""
    dims = list(part.numbers.get(1, []))
    for begin, end in part.pieces.get(1, []):
        while begin < end and len(dims) <= _MAX_RANK:
            value, begin = varint(data, begin, end)
            dims.append(value)
    kinds = part.numbers.get(2, [])
    bits = _BITS.get(kinds[-1], 0) if kinds else 0
    if len(dims) > _MAX_RANK:
        return 0
    count = 1
    for size in dims:
        count *= size
    return -(-count * bits // 8)
