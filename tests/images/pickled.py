"""Runs inside the image with scikit-learn: makes a pickle with that very version, or loads one and predicts.

`pickled.py make FOLDER` · `pickled.py load FOLDER`
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path


def make(folder: Path) -> None:
    """The anomaly detector of the examples, and a probe with what it answers."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from examples.anomaly import readings

    windows = readings.generate(500, 1)
    samples = readings.features(windows.readings).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500)).fit(samples, windows.faulty)
    (folder / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
    rows = samples[:4]
    shape, data = list(rows.shape), rows.ravel().tolist()
    labels = {"shape": [4], "datatype": "INT64", "data": model.predict(rows).tolist()}
    case = {"inputs": {"X": {"shape": shape, "datatype": "FP64", "data": data}}, "outputs": {"predict": labels}}
    (folder / "probe.json").write_text(json.dumps({"format": 1, "cases": [case]}))
    sys.stdout.write(f"{(folder / 'model.pkl').stat().st_size} bytes\n")


def load(folder: Path) -> None:
    """By the code that a confined worker runs, but unconfined: for an emulator, which has nothing to confine by."""
    import numpy as np

    from modelsync_inference.runtimes import sklearn_model
    from modelsync_inference.runtimes.port import Stated

    case = json.loads((folder / "probe.json").read_text())["cases"][0]
    model = sklearn_model.load(folder / "model.pkl", Stated(), joblib=True)
    tensor = case["inputs"]["X"]
    answer = model.run({"X": np.array(tensor["data"]).reshape(tensor["shape"])}, ["predict"])
    assert answer["predict"].tolist() == case["outputs"]["predict"]["data"]
    sys.stdout.write("it answers as it did\n")


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](Path(sys.argv[2]))
