"""A tensor costs the same wherever it lies: in other files, formats, shards and orders, and under another name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.repeats import safetensors
from modelsync_server.encode.choice import smallest_update
from tests.server.tensors.worlds import carried_out, source

Weights = Mapping[str, NDArray[Any]]
Files = dict[str, bytes]
_CHANCE = np.random.default_rng(12)
_OLD = {f"blk.{n}.weight": _CHANCE.normal(0, 0.02, (96, 128)).astype(np.float32) for n in range(4)}
_NEW = {name: (w + _CHANCE.normal(0, 2e-4, w.shape)).astype(np.float32) for name, w in _OLD.items()}


def whole(weights: Weights) -> Files:
    return {"model.safetensors": safetensors(weights)}


def shards(weights: Weights, first: int) -> Files:
    names = list(weights)
    parts = (names[:first], names[first:])
    return {f"model-{n}.safetensors": safetensors({key: weights[key] for key in p}) for n, p in enumerate(parts)}


def renamed(weights: Weights) -> Files:
    return whole({f"model.{name}": weights[name] for name in reversed(list(weights))})


def inline(weights: Weights) -> Files:
    tensors = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [], tensors)
    return {"model.onnx": bytes(helper.make_model(graph).SerializeToString())}


def external(weights: Weights) -> Files:
    model = onnx.load_model_from_string(inline(weights)["model.onnx"])
    data = b""
    for tensor in model.graph.initializer:
        entries = {"location": "weights/data", "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    return {"model.onnx": bytes(model.SerializeToString()), "weights/data": data}


def openvino(weights: Weights) -> Files:
    """Behind a few bytes, so that floats don't begin at a multiple of 4 and can't be guessed."""
    layers, data = [], b"odd"
    for number, (name, w) in enumerate(weights.items()):
        shape = ", ".join(map(str, w.shape))
        about = f'element_type="f32" shape="{shape}" offset="{len(data)}" size="{w.nbytes}"'
        layers.append(f'<layer id="{number}" name="{name}" type="Const" version="opset1">\n  <data {about}/></layer>')
        data += w.tobytes()
    return {"model.xml": "".join(["<net>", *layers, "</net>"]).encode(), "model.bin": data}


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda w: shards(w, 1), lambda w: shards(w, 3)),
        (whole, lambda w: shards(w, 2)),
        (whole, renamed),
        (inline, external),
        (whole, inline),
        (openvino, openvino),
        (whole, openvino),
    ],
    ids=["shards moved", "into shards", "renamed", "external data", "safetensors to ONNX", "OpenVINO", "to OpenVINO"],
)
def test_where_a_tensor_lies_does_not_matter(
    before: Callable[[Weights], Files], after: Callable[[Weights], Files], pool: ThreadPoolExecutor
) -> None:
    straight = smallest_update(source(whole(_OLD)), source(whole(_NEW)), pool)
    base, target = source(before(_OLD)), source(after(_NEW))
    made = smallest_update(base, target, pool)
    assert carried_out(made, base) == bytes(target.stream)
    assert made.cost < 1.01 * straight.cost + 1500
