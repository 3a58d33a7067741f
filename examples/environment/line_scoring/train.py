"""`line-train FOLDER SEED --needs NAME=VERSION`: trains in the cloud; prints answers that the device has to give."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from . import model

_ROWS = 2000


def main() -> None:
    """Train on one part of the readings, measure on another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--needs", action="append", default=[])
    arguments = parser.parse_args()
    rows, targets = model.readings(arguments.seed, _ROWS)
    made = model.fit(rows, targets)
    model.save(made, arguments.folder, dict(each.split("=") for each in arguments.needs))
    unseen, measured = model.readings(model.ASKED_SEED, 200)
    answers = model.predict(model.load(arguments.folder), unseen)
    error = math.sqrt(sum((a - b) ** 2 for a, b in zip(answers, measured, strict=True)) / len(unseen))
    print(json.dumps({"rmse": round(error, 4), "answers": answers[: model.ASKED], "packages": model.packages()}))


if __name__ == "__main__":
    main()
