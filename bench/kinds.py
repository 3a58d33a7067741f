"""Writes pairs of small and opaque files as real updates make them: `python -m bench.kinds OUT [--seed N]`.

Metadata edits, refits of small estimators, tokenizers with new lines, records, and bytes that nothing shortens: where
an update is little, what surrounds the model's bytes decides.
"""

from __future__ import annotations

import argparse
import base64
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bench.repeats import safetensors

Pair = tuple[str, bytes, bytes]
Floats = NDArray[np.float32]


def main() -> None:
    """Write OUT/<case>/{old,new}.*."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for case, (suffix, old, new) in pairs(arguments.seed).items():
        folder = arguments.out / f"{case}_{arguments.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"old.{suffix}").write_bytes(old)
        (folder / f"new.{suffix}").write_bytes(new)


def pairs(seed: int) -> dict[str, Pair]:
    """Case → (suffix, old file, new file)."""
    rng = np.random.default_rng(seed)
    found: dict[str, Pair] = {}
    for make in (_graphs, _estimators, _texts, _flatbuffers, _opaque, _records):
        found |= make(rng)
    return found


def _graphs(rng: np.random.Generator) -> dict[str, Pair]:
    """ONNX files whose weights stay, with edits in what is around them; and linear models, all of them new."""
    weights = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((30, 64), (64, 64), (64, 10))]
    large = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((256, 1024), (1024, 1024), (1024, 10))]
    return {
        "onnx_version": ("onnx", _mlp(weights, version="1.4.0"), _mlp(weights, version="1.4.1")),
        "onnx_metadata": (
            "onnx",
            _mlp(weights, notes={"trained": "2026-10-01", "auc": "0.9312"}),
            _mlp(weights, notes={"trained": "2026-11-01", "auc": "0.9347", "rows": "184223"}),
        ),
        "onnx_opset": ("onnx", _mlp(large, opset=13), _mlp(large, opset=17)),
        "onnx_renamed": ("onnx", _mlp(large, prefix="net/"), _mlp(large, prefix="model/")),
        "onnx_bias": ("onnx", _mlp(large), _mlp([*large[:2], large[2] + np.float32(1e-4)])),
        "onnx_linear": ("onnx", _linear(rng, 64, 10), _linear(rng, 64, 10)),
        "onnx_linear_refit": ("onnx", *_linear_refit(rng)),
    }


def _mlp(
    weights: list[Floats],
    *,
    version: str = "1",
    notes: dict[str, str] | None = None,
    opset: int = 13,
    prefix: str = "l",
) -> bytes:
    nodes, tensors, last = [], [], "x"
    for n, w in enumerate(weights):
        name = f"{prefix}{n}"
        tensors += [numpy_helper.from_array(w, f"{name}/w"), numpy_helper.from_array(w[0] / 7, f"{name}/b")]
        nodes.append(helper.make_node("MatMul", [last, f"{name}/w"], [f"{name}/mm"], name=f"{name}/MatMul"))
        nodes.append(helper.make_node("Add", [f"{name}/mm", f"{name}/b"], [f"{name}/add"], name=f"{name}/Add"))
        nodes.append(helper.make_node("Relu", [f"{name}/add"], [f"{name}/out"], name=f"{name}/Relu"))
        last = f"{name}/out"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weights[0].shape[0]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.producer_name, model.producer_version = "trainer", version
    helper.set_model_props(model, notes or {})
    return bytes(model.SerializeToString())


def _linear(rng: np.random.Generator, features: int, classes: int) -> bytes:
    return _linear_of(rng.normal(0, 0.4, (classes, features)), rng.normal(0, 1, classes))


def _linear_refit(rng: np.random.Generator) -> tuple[bytes, bytes]:
    coefficients, intercepts = rng.normal(0, 0.4, (12, 40)), rng.normal(0, 1, 12)
    moved = coefficients * (1 + rng.normal(0, 0.02, coefficients.shape))
    return _linear_of(coefficients, intercepts), _linear_of(moved, intercepts + 0.01)


def _linear_of(coefficients: NDArray[np.float64], intercepts: NDArray[np.float64]) -> bytes:
    """As skl2onnx writes a linear classifier: its weights are an attribute's floats, one field each."""
    classes, features = coefficients.shape
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[float(value) for value in coefficients.astype(np.float32).ravel()],
        intercepts=[float(value) for value in intercepts.astype(np.float32)],
        classlabels_ints=list(range(classes)),
        multi_class=0,
        post_transform="SOFTMAX",
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, features])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, classes]),
        ],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model.producer_name = "skl2onnx"
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _estimators(rng: np.random.Generator) -> dict[str, Pair]:
    """Pickles of small estimators, refit on the old rows and some more."""
    x = rng.normal(size=(900, 24))
    y = (x @ rng.normal(size=(24, 4)) + rng.normal(0, 0.7, (900, 4))).argmax(1)
    makers: dict[str, Callable[[], Any]] = {
        "pickle_logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=400)),
        "pickle_svc": lambda: SVC(C=2.0),
        "pickle_pca_ridge": lambda: make_pipeline(PCA(12), Ridge()),
    }
    return {
        case: ("pkl", pickle.dumps(make().fit(x[:700], y[:700])), pickle.dumps(make().fit(x, y)))
        for case, make in makers.items()
    }


def _texts(rng: np.random.Generator) -> dict[str, Pair]:
    """Tokenizers and settings, changed by lines."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    odds = np.arange(26, 0, -1) / 351

    def words(count: int) -> list[str]:
        return ["".join(rng.choice(letters, rng.integers(2, 9), p=odds)) for _ in range(count)]

    found: dict[str, Pair] = {}
    for case, count in (("tokenizer", 42_000), ("tokenizer_small", 800)):
        vocabulary = words(count)
        merges = [f"{a[: len(a) // 2]} {a[len(a) // 2 :]}" for a in vocabulary]
        more = list(vocabulary)
        more_merges = list(merges)
        for word in words(12):
            place = int(rng.integers(len(more)))
            more.insert(place, word)
            more_merges.insert(place, f"{word[:1]} {word[1:]}")
        appended = [*vocabulary, *words(30)]
        found[f"{case}_lines"] = ("json", _tokenizer(vocabulary, merges), _tokenizer(more, more_merges))
        found[f"{case}_appended"] = ("json", _tokenizer(vocabulary, merges), _tokenizer(appended, merges))
    settings = {f"layer{n}": {"units": int(rng.integers(8, 512)), "dropout": float(rng.random())} for n in range(60)}
    changed = {**settings, "layer7": {"units": 96, "dropout": 0.25}, "layer60": {"units": 8, "dropout": 0.5}}
    found["settings"] = ("json", json.dumps(settings, indent=1).encode(), json.dumps(changed, indent=1).encode())
    labels = words(3000)
    found["labels"] = ("txt", "\n".join(labels).encode(), "\n".join([*labels[:1500], "other", *labels[1500:]]).encode())
    return found


def _tokenizer(vocabulary: list[str], merges: list[str]) -> bytes:
    model = {"type": "BPE", "vocab": {f"{word}{n % 7}": n for n, word in enumerate(vocabulary)}, "merges": merges}
    return json.dumps({"version": "1.0", "model": model}, indent=2).encode()


def _flatbuffers(rng: np.random.Generator) -> dict[str, Pair]:
    """TFLite files of int8 weights: retrained, fine-tuned, and the same with another description."""
    shapes = ((40, 64), (64, 128), (128, 128), (128, 12))
    old = [rng.normal(0, 30, shape).clip(-127, 127).astype(np.int8) for shape in shapes]
    moved = [
        (w + rng.integers(-2, 3, w.shape) * (rng.random(w.shape) < 0.3)).clip(-127, 127).astype(np.int8) for w in old
    ]
    again = [rng.normal(0, 30, shape).clip(-127, 127).astype(np.int8) for shape in shapes]
    return {
        "tflite_retrained": ("tflite", _tflite(old, "v1"), _tflite(again, "v2")),
        "tflite_tuned": ("tflite", _tflite(old, "v1"), _tflite(moved, "v2")),
        "tflite_described": ("tflite", _tflite(old, "keyword spotter"), _tflite(old, "keyword spotter 2")),
    }


def _tflite(weights: list[NDArray[np.int8]], description: str) -> bytes:
    """A model of these tensors, each in a buffer of its own, without operators."""
    builder = flatbuffers.Builder(1 << 16)
    buffers, tensors = [], []
    for number, weight in enumerate(weights):
        data = builder.CreateByteVector(weight.tobytes())
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, data, 0)
        buffers.append(builder.EndObject())
        name, shape = builder.CreateString(f"layer{number}/weights"), _vector(builder, weight.shape)
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, shape, 0)
        builder.PrependInt8Slot(1, 9, 0)
        builder.PrependUint32Slot(2, number, 0)
        builder.PrependUOffsetTRelativeSlot(3, name, 0)
        tensors.append(builder.EndObject())
    listed, text = _tables(builder, tensors), builder.CreateString(description)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, listed, 0)
    graphs, stored = _tables(builder, [builder.EndObject()]), _tables(builder, buffers)
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.PrependUOffsetTRelativeSlot(3, text, 0)
    builder.PrependUOffsetTRelativeSlot(4, stored, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _vector(builder: flatbuffers.Builder, values: tuple[int, ...]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def _tables(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _opaque(rng: np.random.Generator) -> dict[str, Pair]:
    """Bytes that nothing shortens: all new, with edits, moved about, cut off; and the same as text."""
    found: dict[str, Pair] = {}
    for case, size in (("10k", 10_000), ("300k", 300_000), ("5m", 5_000_000)):
        old = rng.bytes(size)
        edited = bytearray(old)
        for place in rng.integers(0, size - 8, 20):
            edited[place : place + 4] = rng.bytes(4)
        grown = bytearray(old)
        for place in sorted(rng.integers(0, size, 6), reverse=True):
            grown[place:place] = rng.bytes(24)
        third = size // 3
        found[f"random_{case}_new"] = ("dat", old, rng.bytes(size))
        found[f"random_{case}_edited"] = ("dat", old, bytes(edited))
        found[f"random_{case}_inserted"] = ("dat", old, bytes(grown))
        found[f"random_{case}_moved"] = ("dat", old, old[third : 2 * third] + old[:third] + old[2 * third :])
    key = rng.bytes(40_000)
    found["base64"] = ("txt", base64.encodebytes(key), base64.encodebytes(key[:9000] + rng.bytes(40) + key[9000:]))
    return found


def _records(rng: np.random.Generator) -> dict[str, Pair]:
    """Tables of numbers without a container, and small safetensors."""
    rows = np.zeros(3000, np.dtype([("id", "<u4"), ("score", "<f4"), ("kind", "u1"), ("count", "<u2")]))
    rows["id"], rows["score"], rows["kind"] = np.arange(3000) * 3, rng.random(3000), rng.integers(0, 5, 3000)
    rows["count"] = rng.poisson(40, 3000)
    after = rows.copy()
    after["score"] += rng.normal(0, 0.001, 3000).astype(np.float32)
    after["count"] += rng.integers(0, 3, 3000).astype(np.uint16)
    head = {"w": rng.normal(size=(32, 16)).astype(np.float32), "b": rng.normal(size=16).astype(np.float32)}
    tuned = {name: w + np.float32(1e-3) * rng.normal(size=w.shape).astype(np.float32) for name, w in head.items()}
    index = struct.pack("<4sI", b"IDX1", len(rows))
    return {
        "records": ("idx", index + rows.tobytes(), index + after.tobytes()),
        "safetensors_small": ("safetensors", safetensors(head), safetensors(tuned)),
        "safetensors_bias": ("safetensors", safetensors(head), safetensors({**head, "b": tuned["b"]})),
    }


if __name__ == "__main__":
    main()
