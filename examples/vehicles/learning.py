"""The model, its measures and its drift: from rows of the lake to a fit, to figures, to a score. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from examples.anomaly.readings import WINDOW, features

MODEL = "temperature"
DRIFTED = 0.25
"""A population stability index above it is the usual sign of another population."""

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]

_BINS = 6
_LEAST_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Labelled:
    """`samples` (n, FEATURES) float32, `faulty` (n,) 0 or 1; a row for each sensor of each window."""

    samples: Floats
    faulty: Labels

    def __len__(self) -> int:
        return len(self.faulty)


def samples(readings: Any) -> Floats:
    """(n, FEATURES) of readings (windows, SENSORS, WINDOW) in hundredths of a degree."""
    flat: Floats = features(np.asarray(readings, np.float64).reshape(-1, WINDOW) / 100.0)
    return flat


def fit(seen: Labelled) -> bytes:
    """The model as ONNX: X (n, FEATURES) float32 to label (n,) and probabilities (n, 2)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from examples.anomaly.train import to_onnx

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500, class_weight="balanced"))
    return to_onnx(model.fit(seen.samples, seen.faulty))


def evaluate(model: bytes, held_out: Labelled) -> dict[str, float]:
    """How well a model does: of the faults how many it finds, of the others how many it takes for faults."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = session.run(["label"], {"X": held_out.samples})[0]
    found = _share(labels[held_out.faulty == 1])
    alarms = _share(labels[held_out.faulty == 0])
    return {
        "faults_found": round(found, 4),
        "false_alarms": round(alarms, 4),
        "balanced_accuracy": round((found + 1 - alarms) / 2, 4),
        "judged_by": len(held_out),
    }


def _share(values: Any) -> float:
    return float(np.mean(values == 1)) if len(values) else 0.0


def statistics(rows: Floats) -> dict[str, Floats]:
    """What of the features is watched for drift: by name (n,), each of a sensor's window."""
    return {"median step": rows[:, WINDOW + (WINDOW - 1) // 2], "largest distance": rows[:, WINDOW - 1]}


def reference(rows: Floats) -> dict[str, dict[str, list[float]]]:
    """What to compare later windows with: by statistic the inner edges of bins, and the share in each."""
    made = {}
    for name, values in statistics(rows).items():
        # Rounded before anything is counted: many values lie on an edge, and must fall to the same side of it later.
        edges = np.round(np.quantile(values.astype(np.float64), np.linspace(0, 1, _BINS + 1)[1:-1]), 5)
        made[name] = {"edges": edges.tolist(), "shares": _shares(values, edges)}
    return made


def drift(known: Mapping[str, Mapping[str, Any]], rows: Floats) -> dict[str, float]:
    """The population stability index of each statistic: 0 as in the reference, above DRIFTED another population."""
    found = {}
    for name, values in statistics(rows).items():
        then = np.maximum(known[name]["shares"], _LEAST_SHARE)
        now = np.maximum(_shares(values, np.asarray(known[name]["edges"])), _LEAST_SHARE)
        found[name] = float(np.sum((now - then) * np.log(now / then)))
    return found


def _shares(values: Floats, edges: Floats) -> list[float]:
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    return [round(float(share), 5) for share in counts / max(1, len(values))]
