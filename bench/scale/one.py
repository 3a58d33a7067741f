"""One measure in this process: `python -m bench.scale.one NAME SCALE SCRATCH OUT` writes its JSON to OUT."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Give the measure those of our keywords that it takes, and write what it gives."""
    name, scale, scratch, out = sys.argv[1:]
    measure = importlib.import_module(f"bench.scale.{name}").measure
    offered: dict[str, Any] = {"scale": scale, "scratch": Path(scratch)}
    taken = inspect.signature(measure).parameters
    result = measure(**{key: value for key, value in offered.items() if key in taken})
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
