"""Trains the classifier of parts, v1 and v2 (its last layer learned a kind more); writes model.onnx, labels.txt.

It stands for Custom Vision, which does this in the cloud: a small convolutional network whose ONNX form has Custom
Vision's tensors and metadata. Run from the repository's root: python -m examples.camera.train [--out DIR]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.camera.pictures import FIRST_KINDS, KINDS, SIZE, Picture, pictures

HERE = Path(__file__).parent
INPUT, OUTPUT = "data", "model_output"
OPSET, IR_VERSION = 17, 8
CHANNELS = (3, 16, 32, 64)
"""Of the layers: each convolves 3 × 3 (the first 5 × 5) by steps of 2; then the mean over the picture."""

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

_RATE, _BATCH = 2e-3, 64


def start(classes: int, seed: int) -> Weights:
    """A network that knows nothing: `conv1.weight` (out, in, kernel, kernel), …, `fc.weight` (classes, features)."""
    rng = np.random.default_rng(seed)
    found: Weights = {}
    for number, (before, after) in enumerate(itertools.pairwise(CHANNELS), 1):
        side = 5 if number == 1 else 3
        spread = np.sqrt(2 / (before * side * side))
        found[f"conv{number}.weight"] = rng.normal(0, spread, (after, before, side, side)).astype(np.float32)
        found[f"conv{number}.bias"] = np.zeros(after, np.float32)
    found["fc.weight"] = rng.normal(0, 0.1, (classes, CHANNELS[-1])).astype(np.float32)
    found["fc.bias"] = np.zeros(classes, np.float32)
    return found


def prepared(seen: Picture) -> Array:
    """Pictures (n, h, w, RGB) as the network takes them: (n, BGR, h, w), 0 to 255."""
    return np.ascontiguousarray(seen[..., ::-1].transpose(0, 3, 1, 2), np.float32)


def _windows(x: Array, side: int) -> Array:
    """(n, channels, h, w) → (n, h/2, w/2, channels · side²)."""
    pad = side // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    view: Any = np.lib.stride_tricks.sliding_window_view  # its types know no pair of axes
    found = view(x, (side, side), axis=(2, 3))[:, :, ::2, ::2]
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1, 4, 5)).reshape(*found.shape[:1], *found.shape[2:4], -1)


def _back(grown: Array, shape: tuple[int, ...], side: int) -> Array:
    """The gradient of `_windows`."""
    pad, (n, channels, height, width) = side // 2, shape
    out = np.zeros((n, channels, height + 2 * pad, width + 2 * pad), np.float32)
    parts = grown.reshape(n, height // 2, width // 2, channels, side, side)
    for y in range(side):
        for x in range(side):
            out[:, :, y : y + height : 2, x : x + width : 2] += parts[..., y, x].transpose(0, 3, 1, 2)
    return out[:, :, pad : pad + height, pad : pad + width]


def gradients(weights: Weights, batch: Array, wanted: npt.NDArray[np.int64]) -> tuple[float, Weights]:
    """The mean cross-entropy of a batch, and its gradient by weight."""
    x, kept = batch / 127.5 - 1, []
    for number in range(1, len(CHANNELS)):
        weight = weights[f"conv{number}.weight"]
        columns = _windows(x, weight.shape[-1])
        y = columns @ weight.reshape(len(weight), -1).T + weights[f"conv{number}.bias"]
        kept.append((x.shape, columns, y > 0))
        x = np.maximum(y, 0).transpose(0, 3, 1, 2)
    features = x.mean(axis=(2, 3))
    scores = features @ weights["fc.weight"].T + weights["fc.bias"]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    loss = float(-np.log(shares[np.arange(len(wanted)), wanted] + 1e-9).mean())
    shares[np.arange(len(wanted)), wanted] -= 1
    shares /= len(wanted)
    found: Weights = {"fc.weight": shares.T @ features, "fc.bias": shares.sum(axis=0)}
    back = np.broadcast_to((shares @ weights["fc.weight"])[:, :, None, None], x.shape) / (x.shape[2] * x.shape[3])
    for number in range(len(CHANNELS) - 1, 0, -1):
        shape, columns, positive = kept[number - 1]
        weight = weights[f"conv{number}.weight"]
        error = np.where(positive, back.transpose(0, 2, 3, 1), 0).astype(np.float32)
        flat = error.reshape(-1, len(weight))
        found[f"conv{number}.weight"] = (flat.T @ columns.reshape(len(flat), -1)).reshape(weight.shape)
        found[f"conv{number}.bias"] = flat.sum(axis=0)
        if number > 1:
            back = _back(error @ weight.reshape(len(weight), -1), shape, weight.shape[-1])
    return loss, found


def fit(weights: Weights, kinds: tuple[str, ...], *, steps: int, rate: float, seed: int, only: str = "") -> Weights:
    """`weights` after so many steps of Adam on pictures of `kinds`, the rate falling to nothing.

    `only`: how the names begin of those that are trained; the others stay.
    """
    seen, places = pictures(kinds, 3000, seed)
    rng, now = np.random.default_rng(seed), dict(weights)
    mean = {name: np.zeros_like(value) for name, value in now.items()}
    square = {name: np.zeros_like(value) for name, value in now.items()}
    for step in range(1, steps + 1):
        chosen = rng.integers(0, len(seen), _BATCH)
        _, found = gradients(now, prepared(seen[chosen]), places[chosen])
        pace = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        for name, gradient in found.items():
            if not name.startswith(only):
                continue
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            moved = (mean[name] / (1 - 0.9**step)) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
            now[name] = (now[name] - pace * moved).astype(np.float32)
    return now


def widened(weights: Weights, before: tuple[str, ...], after: tuple[str, ...]) -> Weights:
    """The network with a row more for each new kind, every row where its label stands now."""
    grown = {**weights, **{name: value for name, value in start(len(after), 7).items() if name.startswith("fc.")}}
    for kind in before:
        for name in ("fc.weight", "fc.bias"):
            grown[name][after.index(kind)] = weights[name][before.index(kind)]
    return grown


def to_onnx(weights: Weights) -> bytes:
    """data (n, 3, SIZE, SIZE) float32, BGR, 0 to 255 → model_output (n, classes) float32, shares of 1."""
    nodes = [
        helper.make_node("Div", [INPUT, "half"], ["halves"]),
        helper.make_node("Sub", ["halves", "one"], ["x0"]),
    ]
    for number in range(1, len(CHANNELS)):
        side = weights[f"conv{number}.weight"].shape[-1]
        inputs = [f"x{number - 1}", f"conv{number}.weight", f"conv{number}.bias"]
        pads = [side // 2] * 4
        nodes.append(helper.make_node("Conv", inputs, [f"y{number}"], strides=[2, 2], pads=pads))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number}"]))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{len(CHANNELS) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], [OUTPUT], axis=1),
    ]
    constants: Mapping[str, Array] = {
        **weights, "half": np.array([127.5], np.float32), "one": np.array([1], np.float32)
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "parts",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(weights["fc.bias"])])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    said = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    for key, value in said.items():  # as Custom Vision's exports say it
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def main() -> None:
    """Train and write both versions."""
    parser = argparse.ArgumentParser(description="Train the classifier of parts.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for v1/ and v2/ (default: beside this script)")
    out: Path = parser.parse_args().out
    first = fit(start(len(FIRST_KINDS), 1), FIRST_KINDS, steps=500, rate=_RATE, seed=1)
    second = fit(widened(first, FIRST_KINDS, KINDS), KINDS, steps=250, rate=_RATE * 5, seed=2, only="fc.")
    for version, kinds, weights in ((1, FIRST_KINDS, first), (2, KINDS, second)):
        folder = out / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(to_onnx(weights))
        (folder / "labels.txt").write_text("".join(f"{kind}\n" for kind in kinds))


if __name__ == "__main__":
    main()
