"""Lays out v1 and v2 of the scoring example: the script beside the anomaly detector's pickles, and a probe of each.

Run from the repository's root: python -m examples.scoring.build [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from examples.anomaly.train import test_windows
from examples.scoring import score

HERE = Path(__file__).parent
PICKLES = HERE.parent / "anomaly"


def write(version: int, out: Path) -> None:
    """Write `out`/v<version>/ (score.py, model.pkl) and `out`/v<version>.probe.json."""
    folder = out / f"v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "score.py", folder / "score.py")
    shutil.copyfile(PICKLES / f"v{version}" / "model.pkl", folder / "model.pkl")
    os.environ["AZUREML_MODEL_DIR"] = str(folder)
    score.init()
    readings = test_windows().readings[:4].round(2).tolist()
    raw_data = json.dumps({"data": readings}, separators=(",", ":"))
    case = {"inputs": {"raw_data": _text(raw_data)}, "outputs": {"result": _text(json.dumps(score.run(raw_data)))}}
    probe = {"format": 1, "cases": [case], "tolerance": {"absolute": "0.001", "relative": "0.001"}}
    (out / f"v{version}.probe.json").write_text(json.dumps(probe, separators=(",", ":")) + "\n")


def _text(text: str) -> dict[str, object]:
    return {"shape": [1], "datatype": "BYTES", "data": [text]}


def main() -> None:
    """Write both versions."""
    parser = argparse.ArgumentParser(description="Lay out the scoring example.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for v1/ and v2/ (default: beside this script)")
    out: Path = parser.parse_args().out
    for version in (1, 2):
        write(version, out)


if __name__ == "__main__":
    main()
