"""A model of a line's quality from six sensors: fit, save, load, predict, by what the lock pins."""

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
JOBLIB = importlib.util.find_spec("joblib") is not None
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


def fit(rows: Rows, targets: Sequence[float]) -> dict[str, Any]:
    """A model: the plane nearest to what was measured."""
    return {"plane": _library("assay").least_squares(rows, targets)}


def predict(model: dict[str, Any], rows: Rows) -> list[float]:
    """An answer for each row."""
    on_plane = _library("assay").on_plane
    return [on_plane(model["plane"], row) for row in rows]


def save(model: dict[str, Any], folder: Path, needs: dict[str, str]) -> None:
    """Write the model, and by which packages it was made: `needs`, the least version of each."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**model, "needs": needs}
    if JOBLIB:
        _library("joblib").dump(content, folder / FILE)
    else:
        (folder / FILE).write_bytes(pickle.dumps(content))


def load(folder: Path) -> dict[str, Any]:
    """Read a model; WrongEnvironment if it was made by newer packages than are here."""
    if JOBLIB:
        model: dict[str, Any] = _library("joblib").load(folder / FILE)
    else:
        model = pickle.loads((folder / FILE).read_bytes())
    here = packages()
    for name, version in model["needs"].items():
        if _numbers(here.get(name, "0")) < _numbers(version):
            raise WrongEnvironment(f"the model needs {name} {version}; here is {here.get(name, 'none')}")
    return model


def _library(name: str) -> Any:
    """A package of the lock; it is there only where that is installed."""
    return importlib.import_module(name)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]
