"""TFLite files written by hand: by the schema's own classes, which come with LiteRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.bool_): schema.TensorType.BOOL,
    np.dtype(np.object_): schema.TensorType.STRING,
}
_CUSTOM = schema.BuiltinOperator.CUSTOM


class Model:
    """A model that is being written; its first graph is the one that runs."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, "made by a test"
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._model.subgraphs, self._model.signatureDefs = [], []
        self._codes: dict[tuple[int, str], int] = {}

    def graph(self) -> Graph:
        """One more graph."""
        made = Graph(self, len(self._model.subgraphs))
        self._model.subgraphs.append(made.table)
        return made

    def signature(self, name: str, graph: Graph, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Name tensors of `graph`."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, graph.number
        signature.inputs, signature.outputs = [], []
        for entries, given in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for key, tensor in given.items():
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = key, tensor
                entries.append(entry)
        self._model.signatureDefs.append(signature)

    def write(self, path: Path) -> Path:
        """The file."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path

    def buffer(self, data: bytes) -> int:
        """A buffer's number."""
        made = schema.BufferT()
        made.data = np.frombuffer(data, dtype=np.uint8)
        self._model.buffers.append(made)
        return len(self._model.buffers) - 1

    def code(self, operator: int, custom: str = "") -> int:
        """An operator's number."""
        if (operator, custom) not in self._codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = operator, min(operator, 127), 1
            made.customCode = custom or None
            self._codes[operator, custom] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(made)
        return self._codes[operator, custom]


class Graph:
    """One graph; tensors are numbers."""

    def __init__(self, model: Model, number: int) -> None:
        self.number, self._model = number, model
        self.table = schema.SubGraphT()
        self.table.tensors, self.table.operators, self.table.inputs, self.table.outputs = [], [], [], []

    def tensor(
        self,
        name: str,
        dtype: Any,
        shape: Sequence[int],
        data: Any = None,
        scale: float | None = None,
        zero: int = 0,
    ) -> int:
        """A tensor; -1 in `shape` is any size. `data`: it is a constant. `scale`, `zero`: its quantisation."""
        made = schema.TensorT()
        made.name, made.type = name, _TYPES[np.dtype(dtype)]
        made.shape = [abs(size) for size in shape]
        if -1 in shape:
            made.shapeSignature = list(shape)
        made.buffer = 0 if data is None else self._model.buffer(np.asarray(data, dtype=dtype).tobytes())
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        self.table.tensors.append(made)
        return len(self.table.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """A builtin operator by its name in the schema, or `custom:NAME`; `options` of its table."""
        made = schema.OperatorT()
        made.inputs, made.outputs = list(inputs), list(outputs)
        if name.startswith("custom:"):
            made.opcodeIndex = self._model.code(_CUSTOM, name.removeprefix("custom:"))
        else:
            made.opcodeIndex = self._model.code(getattr(schema.BuiltinOperator, name))
            table = "".join(part.capitalize() for part in name.split("_")) + "Options"
            if hasattr(schema, table + "T"):
                made.builtinOptionsType = getattr(schema.BuiltinOptions, table)
                made.builtinOptions = getattr(schema, table + "T")()
                for key, value in options.items():
                    setattr(made.builtinOptions, key, value)
        self.table.operators.append(made)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> Graph:
        """Which tensors come in and go out."""
        self.table.inputs, self.table.outputs = list(inputs), list(outputs)
        return self


def scaler(path: Path, factor: int) -> Path:
    """X (INT32 [1]) to y = X * factor; at -2 it reads beyond a table, which raises, at -4 it counts to 2^31."""
    model = Model()
    main, condition, body = model.graph(), model.graph(), model.graph()
    x = main.tensor("X", np.int32, [1])
    constants = {
        name: main.tensor(name, np.int32, [1], [value])
        for name, value in {"factor": factor, "two": -2, "four": -4, "most": 2**31 - 1, "none": 0}.items()
    }
    breaks, hangs = (main.tensor(name, np.bool_, [1]) for name in ("breaks", "hangs"))
    index, once, rounds, counted, counted_to, taken, scaled, nothing, y = (
        main.tensor(name, np.int32, [1])
        for name in ("index", "once", "rounds", "counted", "counted_to", "taken", "scaled", "nothing", "y")
    )
    cast = {"inDataType": schema.TensorType.BOOL, "outDataType": schema.TensorType.INT32}
    main.operator("EQUAL", [x, constants["two"]], [breaks])
    main.operator("CAST", [breaks], [index], **cast)
    main.operator("GATHER", [constants["factor"], index], [taken])
    main.operator("MUL", [x, taken], [scaled])
    main.operator("EQUAL", [x, constants["four"]], [hangs])
    main.operator("CAST", [hangs], [once], **cast)
    main.operator("MUL", [once, constants["most"]], [rounds])
    main.operator("WHILE", [constants["none"], rounds], [counted, counted_to], condSubgraphIndex=1, bodySubgraphIndex=2)
    main.operator("MUL", [counted, constants["none"]], [nothing])
    main.operator("ADD", [scaled, nothing], [y])
    main.ends([x], [y])
    count, most = (condition.tensor(name, np.int32, [1]) for name in ("count", "most"))
    less = condition.tensor("less", np.bool_, [1])
    condition.operator("LESS", [count, most], [less])
    condition.ends([count, most], [less])
    count, most, after = (body.tensor(name, np.int32, [1]) for name in ("count", "most", "after"))
    body.operator("ADD", [count, body.tensor("one", np.int32, [1], [1])], [after])
    body.ends([count, most], [after, most])
    return model.write(path)
