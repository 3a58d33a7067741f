"""The checkout that this program runs from: its example models and the demo's relay are used, and need importing."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def make_importable() -> None:
    """Let `examples` be imported, wherever the program is started. FileNotFoundError if this is no checkout."""
    if not EXAMPLES.is_dir():
        raise FileNotFoundError("the example models lie beside bench/ in a checkout: run modelsync-bench from one.")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
