"""Trains the anomaly detector, v1 and v2 (refitted on more windows); writes pickle, ONNX form and probe.

Run from the repository's root: python -m examples.anomaly.train [--out DIR]
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skl2onnx
from onnx import helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from examples import probes
from examples.anomaly import readings

HERE = Path(__file__).parent
BATCHES = {1: [(2000, 1)], 2: [(2000, 1), (1000, 2)]}
"""What each version saw, as (windows, seed): v2 is refitted on v1's windows and 1,000 newer ones."""

TEST_SEED = 99
OPSET = 17
IR_VERSION = 8
"""What ONNX Runtime 1.21 and much older ones load."""


def test_windows() -> readings.Windows:
    """The 2,000 windows on which every version is measured; no version trains on them."""
    return readings.generate(2000, TEST_SEED)


def train(version: int) -> Pipeline:
    """Fit `version` (a key of BATCHES)."""
    return fit(BATCHES[version])


def fit(seen: Sequence[tuple[int, int]]) -> Pipeline:
    """Fit on batches of (windows, seed)."""
    batches = [readings.generate(count, seed) for count, seed in seen]
    samples = np.vstack([readings.features(batch.readings) for batch in batches])
    faulty = np.hstack([batch.faulty for batch in batches])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    return model.fit(samples, faulty)


def to_onnx(model: Pipeline) -> bytes:
    """The ONNX form: X (n, FEATURES) float32 to label (n,) int64 and probabilities (n, 2) float32."""
    onnx_model = skl2onnx.convert_sklearn(
        model,
        name="anomaly",
        initial_types=[("X", FloatTensorType([None, readings.FEATURES]))],
        options={"zipmap": False},
        target_opset=OPSET,
    )
    onnx_model.ir_version = IR_VERSION
    # skl2onnx names a domain once for each operator that it emits; strict readers want it once.
    versions = {entry.domain: entry.version for entry in onnx_model.opset_import}
    del onnx_model.opset_import[:]
    onnx_model.opset_import.extend(helper.make_opsetid(*item) for item in sorted(versions.items()))
    data: bytes = onnx_model.SerializeToString(deterministic=True)
    return data


def write(version: int, out: Path) -> float:
    """Write model.pkl, model.onnx and probe.json of `version` into `out`/v<version>; return its accuracy."""
    model = train(version)
    folder = out / f"v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
    (folder / "model.onnx").write_bytes(to_onnx(model))
    windows = test_windows()
    samples = readings.features(windows.readings)
    chosen = np.hstack([np.flatnonzero(windows.faulty == fault)[:2] for fault in (0, 1)])
    cases = [{"X": samples[i : i + 1]} for i in chosen]
    (folder / "probe.json").write_bytes(probes.record(folder / "model.onnx", cases, "0.001"))
    return float(np.mean(model.predict(samples) == windows.faulty))


def main() -> None:
    """Train and write both versions."""
    parser = argparse.ArgumentParser(description="Train the anomaly detector.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for v1/ and v2/ (default: beside this script)")
    out: Path = parser.parse_args().out
    for version in BATCHES:
        accuracy = write(version, out)
        sizes = {p.name: p.stat().st_size for p in sorted((out / f"v{version}").iterdir())}
        print(f"anomaly v{version}: accuracy {accuracy:.3f}; bytes {sizes}")


if __name__ == "__main__":
    main()
