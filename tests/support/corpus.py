"""Real model pairs for tests: those that the repository trains itself, and the corpus where it lies beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OWN = {
    "example-anomaly-pickle": ("anomaly/v1/model.pkl", "anomaly/v2/model.pkl"),
    "example-anomaly-onnx": ("anomaly/v1/model.onnx", "anomaly/v2/model.onnx"),
    "example-digits-int8": ("digits/int8/v1/model.onnx", "digits/int8/v2/model.onnx"),
    "example-digits-float32": ("digits/float32/v1/model.onnx", "digits/float32/v2/model.onnx"),
}

Pair = tuple[str, Path, Path]
"""(name, old file, new file)."""


def own_pairs() -> list[Pair]:
    """The pairs under examples/."""
    examples = ROOT / "examples"
    return [(name, examples / old, examples / new) for name, (old, new) in _OWN.items()]


def corpus_folder() -> Path | None:
    """MODELSYNC_CORPUS, else shared/models beside the project; None (and a warning) if there is neither."""
    folder = Path(os.environ.get("MODELSYNC_CORPUS", ROOT.parent / "shared" / "models"))
    if (folder / "bases.json").is_file():
        return folder
    warnings.warn(
        f"the corpus of real model pairs is not at {folder}: only the repository's own pairs are tested", stacklevel=2
    )
    return None


def corpus_pairs(scratch: Path) -> list[Pair]:
    """Every pair of the corpus, its derived variants too, laid out once in `scratch`."""
    folder = corpus_folder()
    if folder is None:
        return []
    marker = scratch / "complete"
    if not marker.exists():
        shutil.rmtree(scratch, ignore_errors=True)
        subprocess.run(
            ["python3", folder / "derive.py", scratch], check=True, env={**os.environ, "PYTHONPATH": _numpy()}
        )
        marker.touch()
    return [(p.name, next(p.glob("old.*")), next(p.glob("new.*"))) for p in sorted(scratch.iterdir()) if p.is_dir()]


def _numpy() -> str:
    import numpy

    return str(Path(numpy.__file__).parents[1])
