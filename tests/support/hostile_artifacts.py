"""Makes a small hostile artifact for each way of pointing out: `python -m tests.support.hostile_artifacts DIR`.

Each is a name and its files; the model file is `model.onnx` unless the form needs another.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, helper

flatbuffers: Any = importlib.import_module("flatbuffers")  # it has no types

Files = dict[str, bytes]

LOCATIONS = {
    "climbing": "../../../../etc/passwd",
    "climbing-inside": "sub/../../secret",
    "absolute": "/etc/passwd",
    "empty": "",
    "nul": "weights.bin\0/../x",
    "newline": "weights.bin\n",
    "backslash": "..\\..\\secret",
    "drive": "C:/secret",
    "file-url": "file:///etc/passwd",
    "unc": "//server/share/secret",
    "unc-backslash": "\\\\server\\share",
    "memory-address": "*/_ORT_MEM_ADDR_/*",
    "other-case": "Weights.bin",
    "full-width-dots": "\uff0e\uff0e/secret",
    "combining": "weights\u0301.bin",
    "device": "/dev/mem",
    "missing": "nowhere.bin",
}


def tensor(location: str | None = "../secret", **more: str) -> TensorProto:
    """A tensor of 4 bytes outside."""
    made = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entries = ({} if location is None else {"location": location}) | more
    for key, value in entries.items():
        made.external_data.add(key=key, value=value)
    return made


def model(nodes: list[Any] | None = None, initializers: list[TensorProto] | None = None) -> ModelProto:
    """A model that gives back its input."""
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes or [helper.make_node("Identity", ["X"], ["y"])], "g", [x], [y], initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def artifacts() -> Iterator[tuple[str, Files]]:
    """(name, files) of every hostile artifact."""
    for name, location in LOCATIONS.items():
        yield f"location-{name}", _with(initializers=[tensor(location)])
    yield "offset-beyond", _with(initializers=[tensor("weights.bin", offset="9", length="4")])
    yield "length-beyond", _with(initializers=[tensor("weights.bin", length="4096")])
    yield "offset-negative", _with(initializers=[tensor("weights.bin", offset="-4")])
    yield "shape-beyond", _with(initializers=[_shaped()])
    yield "unknown-key", _with(initializers=[tensor("weights.bin", basepath="/etc")])
    for name, place in _places().items():
        yield f"in-{name}", {"model.onnx": place(), "weights.bin": bytes(8)}
    yield from _tricks()
    yield from _other_formats()


def _with(**more: Any) -> Files:
    return {"model.onnx": model(**more).SerializeToString(), "weights.bin": bytes(8)}


def _shaped() -> TensorProto:
    made = tensor("weights.bin")
    made.dims[0] = 1000
    return made


def _places() -> dict[str, Callable[[], bytes]]:
    sparse = SparseTensorProto(values=tensor(), dims=[1])

    def of_node(**attributes: Any) -> bytes:
        return model([helper.make_node("Constant", [], ["y"], **attributes)]).SerializeToString()

    def in_graph(change: Callable[[ModelProto], object]) -> bytes:
        made = model()
        change(made)
        return made.SerializeToString()

    inner = model(initializers=[tensor()]).graph
    function = helper.make_function(
        "own",
        "F",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["b"], value=tensor())],
        [helper.make_opsetid("", 17)],
    )
    return {
        "attribute": lambda: of_node(value=tensor()),
        "attribute-list": lambda: of_node(values=[tensor("weights.bin"), tensor()]),
        "sparse-initializer": lambda: in_graph(lambda m: m.graph.sparse_initializer.append(sparse)),
        "sparse-attribute": lambda: of_node(sparse_value=sparse),
        "subgraph": lambda: of_node(body=inner),
        "subgraph-list": lambda: of_node(bodies=[inner]),
        "function": lambda: in_graph(lambda m: m.functions.append(function)),
        "training-initialization": lambda: in_graph(lambda m: m.training_info.add().initialization.CopyFrom(inner)),
        "training-algorithm": lambda: in_graph(lambda m: m.training_info.add().algorithm.CopyFrom(inner)),
        "ort-config": lambda: in_graph(
            lambda m: m.metadata_props.add(
                key="ort_config", value=json.dumps({"session_options": {"custom_ops_library": "/tmp/x.so"}})
            )
        ),
        "session-option": lambda: in_graph(
            lambda m: m.metadata_props.add(key="session.model_external_initializers_file_folder_path", value="/etc")
        ),
        "ep-context": lambda: model(
            [
                helper.make_node(
                    "EPContext", ["X"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="../x.bin"
                )
            ]
        ).SerializeToString(),
        "ep-context-model": lambda: model(
            [helper.make_node("EPContext", ["X"], ["y"], domain="com.microsoft", onnx_model_filename="/m.onnx")]
        ).SerializeToString(),
    }


def key(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field, its lengths below 2^14."""
    size = len(payload)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + length + payload


def _tricks() -> Iterator[tuple[str, Files]]:
    good, bad = b"weights.bin", b"../secret"
    head = b"\x08\x01\x10\x01" + key(8, b"w") + b"\x70\x01"

    def made(tensor_bytes: bytes, first: bytes = b"") -> Files:
        whole = model().SerializeToString() + first + key(7, key(5, tensor_bytes))
        return {"model.onnx": whole, "weights.bin": bytes(8)}

    entry = key(13, key(1, b"location") + key(2, bad))
    yield "location-twice", made(head + key(13, key(1, b"location") + key(2, good)) + entry)
    yield "location-twice-bad-first", made(head + entry + key(13, key(1, b"location") + key(2, good)))
    yield "value-before-key", made(head + key(13, key(2, bad) + key(1, b"location")))
    yield "value-twice", made(head + key(13, key(1, b"location") + key(2, good) + key(2, bad)))
    yield "key-twice", made(head + key(13, key(1, b"offset") + key(2, bad) + key(1, b"location")))
    yield "external-before-type", made(entry + head)
    yield "graph-twice", made(head + entry, key(7, key(2, b"again")))
    t1, t2 = key(5, head), key(5, entry)
    node = key(4, b"Constant") + key(5, key(1, b"value") + t1 + t2)
    split = model().SerializeToString() + key(7, key(1, node))
    yield "attribute-tensor-in-two", {"model.onnx": split}
    yield "unknown-field", {"model.onnx": model().SerializeToString() + key(99, b"../secret")}
    yield "unknown-group", {"model.onnx": model().SerializeToString() + b"\x9b\x06" + key(1, b"x") + b"\x9c\x06"}


def _other_formats() -> Iterator[tuple[str, Files]]:
    plain = {"model.onnx": model().SerializeToString()}
    yield "pbtxt", {**plain, "config.pbtxt": b'default_model_filename: "../../etc/passwd"\n'}
    yield "pbtxt-library", {**plain, "config.pbtxt": b'model_operations { op_library_filename: "/tmp/x.so" }\n'}
    yield "mlmodel", {**plain, "MLmodel": b"flavors:\n  onnx:\n    data: ../../secret.onnx\n"}
    yield "mlmodel-code", {**plain, "MLmodel": b"flavors: {python_function: {code: '/opt/evil'}}\n"}
    yield "index-json", {**plain, "model.safetensors.index.json": b'{"weight_map": {"a": "../secret"}}'}
    yield "tflite-buffer", {**plain, "m.tflite": _tflite(9_000_000, 100)}
    yield "ort-outside", {**plain, "m.ort": _ort()}


def _table(builder: Any, count: int, offsets: dict[int, int], longs: dict[int, int]) -> int:
    builder.StartObject(count)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in longs.items():
        builder.PrependUint64Slot(slot, number, 0)
    return int(builder.EndObject())


def _vector(builder: Any, table: int) -> int:
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _tflite(offset: int, size: int) -> bytes:
    builder = flatbuffers.Builder(256)
    buffers = _vector(builder, _table(builder, 3, {}, {1: offset, 2: size}))
    builder.Finish(_table(builder, 5, {4: buffers}, {}), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _ort() -> bytes:
    builder = flatbuffers.Builder(256)
    name = builder.CreateString("w")
    tensors = _vector(builder, _table(builder, 7, {0: name}, {6: 4096}))
    graph = _table(builder, 9, {0: tensors}, {})
    whole = _table(builder, 10, {7: graph}, {})
    builder.Finish(_table(builder, 2, {1: whole}, {}), file_identifier=b"ORTM")
    return bytes(builder.Output())


def closed() -> Files:
    """An honest model whose weights lie beside it."""
    far = tensor("weights/w.bin", offset="4", length="4")
    files = {"model.onnx": model([helper.make_node("Add", ["X", "w"], ["y"])], [far]).SerializeToString()}
    return {**files, "weights/w.bin": np.array([0, 7], np.float32).tobytes()}


def main() -> None:
    """Write every artifact below the folder that is given."""
    for name, files in artifacts():
        for path, data in files.items():
            place = Path(sys.argv[1]) / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


if __name__ == "__main__":
    main()
