"""An Azure ML scoring script: is a temperature sensor faulty? It reads 84 readings and finds its model by itself.

{"data": [[84 numbers], …]} gives {"faulty": [0 or 1, …], "probability": [number, …]}.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

model: Any = None


def init() -> None:
    """Called once: load the model that lies beside this script."""
    global model
    with (Path(os.environ["AZUREML_MODEL_DIR"]) / "model.pkl").open("rb") as file:
        model = pickle.load(file)


def run(raw_data: str) -> dict[str, list[float]]:
    """Called with the body of each request."""
    readings = np.array(json.loads(raw_data)["data"], dtype=float)
    distance = np.abs(readings - np.median(readings, axis=1, keepdims=True))
    step = np.abs(np.diff(readings, axis=1))
    ordered = np.hstack([np.sort(distance, axis=1), np.sort(step, axis=1)])
    samples = np.log1p(10 * ordered)
    return {"faulty": model.predict(samples).tolist(), "probability": model.predict_proba(samples)[:, 1].tolist()}
