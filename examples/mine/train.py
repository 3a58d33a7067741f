"""Trains the feed adviser, v1 and v2 (tuned on newer windows); writes model.onnx and probe.json of each.

Run from the repository's root: python -m examples.mine.train [--out DIR]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPRegressor

from examples import probes
from examples.mine.features import FEATURES, ROWS, features
from examples.mine.line import INPUT, MEASURED, OUTPUT, Instruments, Line

HERE = Path(__file__).parent

OPSET, IR_VERSION = 17, 8
_HIDDEN = (48, 48)

Array = npt.NDArray[np.float32]


def windows(seed: int, count: int) -> tuple[Array, Array]:
    """(features (count, FEATURES), best feed (count, 1)) of lines that wander through their range of feeds."""
    rng = np.random.default_rng(seed)
    samples: list[Array] = []
    targets: list[list[float]] = []
    while len(samples) < count:
        number = int(rng.integers(1 << 31))
        line, instruments = Line(number), Instruments(number, drift_per_scan=0.002)
        line.scan, set_point, rows = int(rng.integers(0, 4000)), float(rng.uniform(300, 500)), []
        held = dict.fromkeys(MEASURED, (0.0, "bad"))
        for _ in range(200):
            if rng.random() < 0.05:
                set_point = float(rng.uniform(300, 500))
            found = instruments.read(line.step(set_point))
            held |= {tag: reading for tag, reading in found.items() if reading[1] != "bad"}
            rows.append([held[tag][0] for tag in MEASURED])
            if len(rows) > 2 * ROWS and min(rows[-ROWS]) > 0:
                samples.append(features(rows[-ROWS:]))
                targets.append([np.clip(line.best_feed, 300, 500)])
    return np.array(samples[:count], np.float32), np.array(targets[:count], np.float32)


def train() -> list[tuple[MLPRegressor, Array, Array]]:
    """Both versions as (network, mean, scale): v2 is v1 after a few gentle passes over newer windows."""
    samples, targets = windows(1, 12_000)
    mean, scale = samples.mean(axis=0), samples.std(axis=0)
    network = MLPRegressor(hidden_layer_sizes=_HIDDEN, max_iter=150, random_state=1, learning_rate_init=2e-3)
    network.fit((samples - mean) / scale, (targets.ravel() - 400) / 100)
    newer, wanted = windows(2, 4_000)
    tuned = copy.deepcopy(network).set_params(learning_rate_init=2e-5, max_iter=3, warm_start=True)
    tuned.fit((newer - mean) / scale, (wanted.ravel() - 400) / 100)
    return [(network, mean, scale), (tuned, mean, scale)]


def to_onnx(network: MLPRegressor, mean: Array, scale: Array) -> bytes:
    """X (n, FEATURES) float32 → setpoint (n, 1) float32, t/h."""
    constants = {"mean": mean, "scale": scale, "hundred": np.array([100]), "middle": np.array([400])}
    nodes = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["h0"]),
    ]
    last = len(network.coefs_) - 1
    for number, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        constants |= {f"w{number}": weights, f"b{number}": bias}
        out = f"g{number}"
        nodes.append(helper.make_node("Gemm", [f"h{number}", f"w{number}", f"b{number}"], [out]))
        if number < last:
            nodes.append(helper.make_node("Relu", [out], [f"h{number + 1}"]))
    nodes += [
        helper.make_node("Mul", [f"g{last}", "hundred"], ["spread"]),
        helper.make_node("Add", ["spread", "middle"], [OUTPUT]),
    ]
    return model(nodes, {name: np.asarray(value, np.float32) for name, value in constants.items()})


def model(nodes: list[onnx.NodeProto], constants: Mapping[str, npt.NDArray[Any]], columns: int = 1) -> bytes:
    """A model of `nodes`: X (n, FEATURES) float32 → setpoint (n, columns) float32."""
    graph = helper.make_graph(
        nodes,
        "feed",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def main() -> None:
    """Train and write both versions; say how far from the best feed each is on windows that none has seen."""
    parser = argparse.ArgumentParser(description="Train the feed adviser.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for v1/ and v2/ (default: beside this script)")
    out: Path = parser.parse_args().out
    samples, targets = windows(99, 2_000)
    for version, trained in enumerate(train(), 1):
        folder = out / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(to_onnx(*trained))
        cases = [{INPUT: samples[number : number + 1]} for number in (0, 500, 1000, 1500)]
        (folder / "probe.json").write_bytes(probes.record(folder / "model.onnx", cases, "0.01"))
        network, mean, scale = trained
        error = np.abs(network.predict((samples - mean) / scale) * 100 + 400 - targets.ravel())
        print(
            f"feed v{version}: {error.mean():.1f} t/h from the best feed on average, "
            f"95 % within {np.quantile(error, 0.95):.1f}"
        )


if __name__ == "__main__":
    main()
