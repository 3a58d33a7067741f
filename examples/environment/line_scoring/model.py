"""A model of a line's quality from six sensors: fit, save, load, predict, by whatever numeric library the lock pins."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import random
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

FILE = "quality.model"
SENSORS = 6
ASKED_SEED, ASKED = 99, 20
"""The readings that cloud and device are compared by: of this seed the first so many of 200."""
NUMPY = importlib.util.find_spec("numpy") is not None
_FEATURES = 256
Rows = Sequence[Sequence[float]]


class WrongEnvironment(Exception):
    """The model was made by packages that are not here; the message names the first."""


def packages() -> dict[str, str]:
    """Every package of this environment with its version."""
    return {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}


def readings(seed: int, count: int) -> tuple[list[list[float]], list[float]]:
    """Made-up readings and the quality that was measured of them in the laboratory."""
    chance = random.Random(seed)
    rows = [[chance.gauss(0, 1) for _ in range(SENSORS)] for _ in range(count)]
    return rows, [r[0] - 0.5 * r[1] + 0.3 * r[2] * r[3] + chance.gauss(0, 0.05) for r in rows]


def fit(seed: int, rows: Rows, targets: Sequence[float]) -> dict[str, Any]:
    """A model: with NumPy, ridge regression on random Fourier features (Rahimi, Recht 2007); else a plane."""
    if not NUMPY:
        return {"plane": _assay().least_squares(rows, targets)}
    import numpy as np

    generator = np.random.default_rng(seed)
    projection, phase = generator.normal(size=(SENSORS, _FEATURES)) * 0.4, generator.uniform(0, 6.283, _FEATURES)
    features = np.cos(np.asarray(rows) @ projection + phase)
    weights = np.linalg.solve(features.T @ features + 1e-3 * np.eye(_FEATURES), features.T @ np.asarray(targets))
    return {"projection": projection, "phase": phase, "weights": weights}


def predict(model: dict[str, Any], rows: Rows) -> list[float]:
    """An answer for each row."""
    if "plane" in model:
        return [_assay().on_plane(model["plane"], row) for row in rows]
    import numpy as np

    return [float(x) for x in np.cos(np.asarray(rows) @ model["projection"] + model["phase"]) @ model["weights"]]


def save(model: dict[str, Any], folder: Path, needs: dict[str, str]) -> None:
    """Write the model, and by which packages it was made: `needs`, the least version of each."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**model, "needs": needs}
    if NUMPY:
        import joblib

        joblib.dump(content, folder / FILE)
    else:
        (folder / FILE).write_bytes(pickle.dumps(content))


def load(folder: Path) -> dict[str, Any]:
    """Read a model; WrongEnvironment if it was made by newer packages than are here."""
    if NUMPY:
        import joblib

        model: dict[str, Any] = joblib.load(folder / FILE)
    else:
        model = pickle.loads((folder / FILE).read_bytes())
    here = packages()
    for name, version in model["needs"].items():
        if _numbers(here.get(name, "0")) < _numbers(version):
            raise WrongEnvironment(f"the model needs {name} {version}; here is {here.get(name, 'none')}")
    return model


def _assay() -> Any:
    """The abridged story's library, which is there only where the lock pins it."""
    return importlib.import_module("assay")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]
