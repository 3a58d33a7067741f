"""Models that must not move the plant: each well-formed and signed, each wrong in another way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from examples.mine.line import INPUT, OUTPUT
from examples.mine.train import model


def shifted(good: Path) -> bytes:
    """Well-formed, and 40 t/h too high: what a wrong scaling in training makes. Its recorded probe shows it."""
    return _after(good, [helper.make_node("Add", ["good", "by"], [OUTPUT])], by=40.0)


def inverted(good: Path) -> bytes:
    """Plausible nonsense: always within the limits, and wrong the more the ore differs from the ordinary."""
    return _after(good, [helper.make_node("Sub", ["by", "good"], [OUTPUT])], by=820.0)


_Constants = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]


def bad_models(good: Path) -> Mapping[str, bytes]:
    """By what is wrong: not a number, infinite, another shape, absurdly large, and nonsense within the limits."""
    sums = [helper.make_node("ReduceSum", [INPUT, "axis"], ["sum"], keepdims=1)]
    zero = [*sums, helper.make_node("Mul", ["sum", "zero"], ["nothing"])]
    axis: _Constants = {"axis": np.array([1], np.int64), "zero": np.zeros(1, np.float32)}
    jump = "by"
    return {
        "NaN": model([*zero, helper.make_node("Div", ["nothing", "nothing"], [OUTPUT])], axis),
        "infinity": model(
            [*zero, helper.make_node("Div", ["one", "nothing"], [OUTPUT])], axis | {"one": np.ones(1, np.float32)}
        ),
        "wrong shape": model([helper.make_node("Identity", [INPUT], [OUTPUT])], {}, columns=12),
        "a million": model([*zero, helper.make_node("Add", ["nothing", jump], [OUTPUT])], axis | {jump: _number(1e6)}),
        "nonsense within the limits": inverted(good),
    }


def _after(good: Path, nodes: list[onnx.NodeProto], **constants: float) -> bytes:
    """The good model, with `nodes` that make its answer (then called `good`) into another."""
    made = onnx.load(good)
    for node in made.graph.node:
        for place, name in enumerate(node.output):
            if name == OUTPUT:
                node.output[place] = "good"
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(_number(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _number(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([value], np.float32)
